import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { promisify } from 'node:util'
import { WEIGHTS_FILE } from '../../gpu-backend/adapters/adapter-folder.ts'
import type { AdapterPool, AdapterShape, ManyAdapter } from './adapter-pool.ts'
import type { EngineBench } from './context.ts'
import { ask } from './own-engine.ts'
import { median, percentile, ratios, spreadOf } from './statistics.ts'
import { drawPrompts } from './step.ts'
import { openRegistry } from './traffic.ts'

const LOADS = 8
const PHASE_MS = 1_500
const PHASES = 8
const LOAD_INTERVAL_MS = 250
const DECODING = 8

/** How long a load takes beside a plain read of its file, and what others feel of it. */
export async function benchColdLoad(bench: EngineBench, pool: AdapterPool): Promise<void> {
  for (const shape of ['r=8 on q, v', 'r=16 on all modules'] as const) {
    const loader = await openLoader(bench, pool, shape)
    for (const from of ['disk', 'page cache'] as const) await compareWithRead(bench, loader, from)
    if (shape === 'r=8 on q, v') await watchOthers(bench, loader)
    await loader.close()
  }
}

interface Loader {
  readonly shape: AdapterShape
  readonly adapters: readonly ManyAdapter[]
  /** Milliseconds until a request could name an adapter that is not in memory, and then it is not there again. */
  readonly load: (index: number) => Promise<number>
  readonly close: () => Promise<void>
}

async function openLoader(
  bench: EngineBench,
  pool: AdapterPool,
  shape: AdapterShape,
): Promise<Loader> {
  const adapters: ManyAdapter[] = []
  for (let index = 0; index < LOADS; index++) {
    const { digest, sizeBytes } = await pool.read(shape, index)
    adapters.push({ folder: pool.pathOf(shape, index), digest, sizeBytes })
  }
  const ramBudgetBytes = LOADS * Math.max(...adapters.map(({ sizeBytes }) => sizeBytes))
  const options = { adapters, ramBudgetBytes }
  const { registry, restore, close } = await openRegistry(bench, pool, options)
  const load = async (index: number) => {
    const id = String(index)
    const startedAt = performance.now()
    const lease = await registry.lease(id)
    const tookMs = performance.now() - startedAt
    lease?.release()
    await registry.unregister(id)
    await restore(index)
    return tookMs
  }
  return { shape, adapters, load, close }
}

async function compareWithRead(
  bench: EngineBench,
  { shape, adapters, load }: Loader,
  from: 'disk' | 'page cache',
): Promise<void> {
  const loads: number[] = []
  const reads: number[] = []
  for (const [index, { folder }] of adapters.entries()) {
    const path = join(folder, WEIGHTS_FILE)
    const prepare = () => (from === 'disk' ? dropFromPageCache(path) : readFile(path))
    await prepare()
    const startedAt = performance.now()
    await readFile(path)
    reads.push(performance.now() - startedAt)
    await prepare()
    loads.push(await load(index))
  }
  const megabytes = (adapters[0]?.sizeBytes ?? 0) / 1e6
  bench.add({
    bench: 'cold load against a plain read',
    name: `${shape} (${megabytes.toFixed(1)} MB), from ${from}`,
    figure: ratios(loads, reads),
    target: from === 'disk' ? { kind: 'at most', value: 2 } : null,
    context: `${median(loads).toFixed(1)} against ${median(reads).toFixed(1)} ms`,
  })
}

/** GNU dd's way to say POSIX_FADV_DONTNEED of a file. */
async function dropFromPageCache(path: string): Promise<void> {
  await promisify(execFile)('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

/** Eight requests decode; by turns, nothing loads, and one adapter a quarter of a second. */
async function watchOthers(bench: EngineBench, { load, shape }: Loader): Promise<void> {
  const stop = new AbortController()
  const gaps = { quiet: [] as number[], loading: [] as number[] }
  let phase: keyof typeof gaps = 'quiet'
  const decode = async (promptTokens: readonly number[]) => {
    let lastAt = 0
    const onToken = () => {
      const at = performance.now()
      if (lastAt > 0) gaps[phase].push(at - lastAt)
      lastAt = at
    }
    await ask(bench.engine, { promptTokens, maxTokens: 4_000, onToken }, stop.signal)
  }
  const decoding = drawPrompts(bench, DECODING).map(decode)
  await setTimeout(PHASE_MS)
  gaps.quiet.length = 0
  for (let index = 0; index < Math.max(2, PHASES * bench.scale); index++) {
    phase = 'quiet'
    await setTimeout(PHASE_MS)
    phase = 'loading'
    const loads: Promise<number>[] = []
    for (let at = 0; at < PHASE_MS; at += LOAD_INTERVAL_MS) {
      loads.push(load(loads.length % LOADS))
      await setTimeout(LOAD_INTERVAL_MS)
    }
    await Promise.all(loads)
  }
  stop.abort()
  await Promise.all(decoding)
  const p99 = (times: readonly number[]) => percentile(times, 0.99)
  bench.add({
    bench: 'tokens of others while adapters load',
    name: `p99 between two tokens, ${DECODING} decoding, ${1000 / LOAD_INTERVAL_MS} loads a second of ${shape}`,
    figure: spreadOf([p99(gaps.loading) / p99(gaps.quiet)]),
    target: { kind: 'at most', value: 1.1 },
    context: `${p99(gaps.loading).toFixed(1)} against ${p99(gaps.quiet).toFixed(1)} ms; medians ${median(gaps.loading).toFixed(1)} and ${median(gaps.quiet).toFixed(1)} ms`,
  })
}
