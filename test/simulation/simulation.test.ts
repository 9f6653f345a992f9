import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { expect, test } from 'vitest'
import type { RunSummary } from './simulate.ts'

/** `SIMULATION_SEED=17` replays one run; `SIMULATION_COUNT=5000` plays so many. */
const { SIMULATION_SEED = '1', SIMULATION_COUNT = '300' } = process.env
const THREAD_COUNT = 2
const firstSeed = Number(SIMULATION_SEED)
const runCount = process.env.SIMULATION_SEED === undefined ? Number(SIMULATION_COUNT) : 1

/** On a thread of their own; rejects with the first seed that fails. */
function play(seeds: readonly number[]): Promise<Map<number, RunSummary>> {
  return new Promise((resolve, reject) => {
    const summaries = new Map<number, RunSummary>()
    const worker = new Worker(join(import.meta.dirname, 'play-seeds.ts'), {
      workerData: { seeds },
      execArgv: [],
    })
    worker.on('message', ({ seed, summary }) => summaries.set(seed, summary))
    worker.on('error', reject)
    worker.on('exit', () => resolve(summaries))
  })
}

test('whatever is lost, late, doubled or dies: nobody overspends, all is billed and anchored once, and a seed replays exactly', {
  timeout: 30_000 + runCount * 1_000,
}, async () => {
  const seeds = Array.from({ length: runCount }, (_, index) => firstSeed + index)
  // Both threads play the first and the last seed, after and before different others.
  const isShared = (index: number) => index === 0 || index === runCount - 1
  const plays = Array.from({ length: THREAD_COUNT }, (_, thread) =>
    play(seeds.filter((_seed, index) => isShared(index) || index % THREAD_COUNT === thread)),
  )
  const [one, other] = await Promise.all(plays)
  const summaries = new Map([...one!, ...other!])
  expect([...summaries.keys()].toSorted((a, b) => a - b)).toEqual(seeds)
  for (const seed of [firstSeed, firstSeed + runCount - 1])
    expect(one!.get(seed)).toEqual(other!.get(seed))
  const recordCount = [...summaries.values()].reduce((sum, each) => sum + each.recordCount, 0)
  expect(recordCount).toBeGreaterThanOrEqual(runCount)
})
