import { expect, test, vi } from 'vitest'

vi.mock('cloudflare:workers', () => ({
  DurableObject: class {
    readonly ctx: unknown
    readonly env: unknown
    constructor(ctx: unknown, env: unknown) {
      this.ctx = ctx
      this.env = env
    }
  },
}))

const { simulate } = await import('./simulate.ts')

/** `SIMULATION_SEED=17` replays one run; `SIMULATION_COUNT=5000` plays so many. */
const { SIMULATION_SEED = '1', SIMULATION_COUNT = '30' } = process.env
const firstSeed = Number(SIMULATION_SEED)
const runCount = process.env.SIMULATION_SEED === undefined ? Number(SIMULATION_COUNT) : 1

test('whatever is lost, late, doubled or dies: nobody overspends, all is billed and anchored once', {
  timeout: 30_000 + runCount * 1_000,
}, async () => {
  let recordCount = 0
  for (let seed = firstSeed; seed < firstSeed + runCount; seed++) {
    const summary = await simulate(seed).catch((cause: unknown) => {
      throw new Error(`SIMULATION_SEED=${seed}: ${String(cause)}`, { cause })
    })
    recordCount += summary.recordCount
  }
  expect(recordCount).toBeGreaterThanOrEqual(runCount)
})

test('a seed replays exactly', async () => {
  expect(await simulate(firstSeed)).toEqual(await simulate(firstSeed))
})
