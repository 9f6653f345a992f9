import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { type AdapterPool, POOL_SIZE } from './adapter-pool.ts'
import type { EngineBench } from './context.ts'
import type { DedicatedAnswer, DedicatedCommand } from './dedicated.ts'
import { ratios, spreadOf } from './statistics.ts'
import { decodeOwn, drawPrompts } from './step.ts'

const ROUNDS = 3
const STEPS = 32
/** Requests of each of the two adapters. */
const BATCH = 4

/** What serving one adapter more costs: one more in this process, or a process with its own copy of the model. */
export async function benchOneMore(bench: EngineBench, pool: AdapterPool): Promise<void> {
  const threadCount = Math.max(1, Math.floor(bench.threadCount / 2))
  const processes = [
    await openDedicated(bench, threadCount),
    await openDedicated(bench, threadCount),
  ]
  await compareThroughput(bench, pool, processes)
  await compareBytes(bench, pool, processes[0])
  for (const { child } of processes) {
    child.disconnect()
    await once(child, 'exit')
  }
}

interface Dedicated {
  readonly child: ChildProcess
  readonly tell: (command: DedicatedCommand) => Promise<DedicatedAnswer>
}

async function openDedicated({ modelPath }: EngineBench, threadCount: number): Promise<Dedicated> {
  const child = fork(new URL('./dedicated.ts', import.meta.url))
  const tell = async (command: DedicatedCommand) => {
    const answer = Promise.withResolvers<DedicatedAnswer>()
    const onExit = (code: number) => answer.reject(new Error(`A process ended with code ${code}.`))
    child.once('message', answer.resolve)
    child.once('exit', onExit)
    child.send(command)
    return answer.promise.finally(() => child.off('exit', onExit))
  }
  await tell({ kind: 'open', modelPath, threadCount })
  return { child, tell }
}

/** Two adapters of one engine on all cores, and two dedicated processes that share the cores and run without LoRA. */
async function compareThroughput(
  bench: EngineBench,
  pool: AdapterPool,
  processes: readonly Dedicated[],
): Promise<void> {
  const digests: string[] = []
  for (const index of [0, 1]) {
    const weights = await pool.read('r=8 on q, v', index)
    await bench.engine.loadAdapter(weights)
    digests.push(weights.digest)
  }
  const prompts = [drawPrompts(bench, BATCH), drawPrompts(bench, BATCH)]
  const asks = prompts.flatMap((own, i) =>
    own.map((promptTokens) => ({ promptTokens, adapter: digests[i] ?? null })),
  )
  const shared = async () => (await decodeOwn(bench, asks, STEPS)).tokensPerSecond
  const dedicated = async () => {
    const answers = await Promise.all(
      processes.map(({ tell }, i) =>
        tell({ kind: 'decode', prompts: prompts[i] ?? [], stepCount: STEPS }),
      ),
    )
    return answers.reduce((sum, { tokensPerSecond }) => sum + tokensPerSecond, 0)
  }
  await shared()
  await dedicated()
  const own: number[] = []
  const other: number[] = []
  for (let round = 0; round < Math.max(1, Math.round(ROUNDS * bench.scale)); round++) {
    own.push(await shared())
    other.push(await dedicated())
  }
  for (const digest of digests) await bench.engine.unloadAdapter(digest)
  bench.add({
    bench: 'one more adapter',
    name: `throughput of 2 adapters, against 2 processes with half the cores each`,
    figure: ratios(own, other),
    target: null,
    context: `${spreadOf(own).median.toFixed(0)} against ${spreadOf(other).median.toFixed(0)} tok/s, ${2 * BATCH} requests`,
  })
}

/** A dedicated process grows by what an adapter takes as more of them are loaded. */
async function compareBytes(
  bench: EngineBench,
  pool: AdapterPool,
  dedicated: Dedicated | undefined,
): Promise<void> {
  const folders = Array.from({ length: POOL_SIZE }, (_, i) => pool.pathOf('r=8 on q, v', i))
  const before = await dedicated?.tell({ kind: 'load', folders: [] })
  const after = await dedicated?.tell({ kind: 'load', folders })
  if (before === undefined || after === undefined) throw new Error('there is a process')
  const { sizeBytes } = await pool.read('r=8 on q, v', 0)
  const grownBytes = (after.rssBytes - before.rssBytes) / POOL_SIZE
  bench.add({
    bench: 'one more adapter',
    name: 'memory of a dedicated process, against an adapter of r=8 on q, v',
    figure: spreadOf([before.rssBytes / sizeBytes]),
    target: null,
    context: `${megabytes(before.rssBytes)} against ${megabytes(sizeBytes)} (the process grew by ${megabytes(grownBytes)} an adapter): ${(100 * (1 - sizeBytes / before.rssBytes)).toFixed(2)} % less`,
  })
}

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`
