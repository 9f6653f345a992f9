import { mkdir } from 'node:fs/promises'
import { type AdapterPool, openAdapterPool } from './adapter-pool.ts'
import { benchBatchAdapters } from './batch-adapters.ts'
import { benchColdLoad } from './cold-load.ts'
import { type EngineBench, openBench } from './context.ts'
import { benchFairness } from './fairness.ts'
import { benchOneMore } from './one-more.ts'
import {
  type BenchRow,
  describeMachine,
  formatRow,
  formatTable,
  holds,
  writeTable,
} from './report.ts'
import { benchScaling } from './scaling.ts'
import { benchDecode, benchMixed, benchPrefill } from './step.ts'

type Bench = (bench: EngineBench, pool: AdapterPool) => Promise<void>

const BENCHES: Readonly<Record<string, Bench>> = {
  decode: benchDecode,
  prefill: benchPrefill,
  mixed: benchMixed,
  adapters: benchBatchAdapters,
  scaling: benchScaling,
  'cold-load': benchColdLoad,
  'one-more': benchOneMore,
  fairness: benchFairness,
}

export const ENGINE_BENCH_NAMES = Object.keys(BENCHES)

/** What all benches take with the default windows, on two cores. */
export const DEFAULT_MINUTES = 12

const DOCUMENT = new URL('../../docs/engine.md', import.meta.url)

export interface EngineBenchRun {
  readonly modelPath: string
  readonly threadCount: number
  /** Where the peer, its files and the adapters are kept; made when missing. */
  readonly cacheDir: string
  /** Of {@link ENGINE_BENCH_NAMES}. */
  readonly names: readonly string[]
  readonly minutes: number
  /** Whether the table goes into `docs/engine.md`. */
  readonly isWritten: boolean
}

/** Measures the engine beside its peers and prints a row each; returns all figures. */
export async function measureEngine({ names, minutes, isWritten, ...options }: EngineBenchRun) {
  await mkdir(options.cacheDir, { recursive: true })
  const rows: BenchRow[] = []
  const bench = await openBench({
    ...options,
    scale: minutes / DEFAULT_MINUTES,
    add: (row) => {
      rows.push(row)
      console.log(formatRow(row))
    },
  })
  const pool = await openAdapterPool(options.cacheDir, bench.engine.model.config)
  for (const name of names) await BENCHES[name]?.(bench, pool)
  const peer = (await bench.findPeer())?.description ?? null
  await bench.close()
  const report = { machine: await describeMachine(), peer, rows }
  if (isWritten) await writeTable(DOCUMENT, formatTable(report))
  return { ...report, rows: rows.map((row) => ({ ...row, holds: holds(row) })) }
}
