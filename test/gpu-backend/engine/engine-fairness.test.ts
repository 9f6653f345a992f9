import assert from 'node:assert/strict'
import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineEvent } from '../../../gpu-backend/engine/engine-port.ts'
import { DEFAULT_ENGINE_LIMITS, type EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import type { Tier } from '../../../protocol/backend.ts'
import { engineRequest } from '../../support/engine-request.ts'
import { createRandom } from '../../support/random.ts'
import { createToyRunner, TOY_VOCAB_SIZE, toyTokenBytes } from '../../support/toy-runner.ts'

interface Load {
  readonly tenant: string
  readonly tier: Tier
  /** Mean number of requests that arrive before a step. */
  readonly arrivalsPerStep: number
  readonly promptTokens: readonly [number, number]
  readonly maxTokens: readonly [number, number]
  /** Default 1. */
  readonly choiceCount?: number
}

const STEP_COUNT = 700

/** Steps from arrival to the first token of the tenant's requests sorted; and all tokens that were sampled. */
async function measureFirstTokens(tenant: string, loads: readonly Load[], limits: EngineLimits) {
  const runner = createToyRunner({ kvTokens: 65_536, contextLength: 4_096, pageTokens: 64 })
  const arrivedAt = new Map<string, number>()
  const waits: number[] = []
  let step = 0
  let tokenCount = 0
  const note = (event: EngineEvent) => {
    if (event.kind === 'token') tokenCount++
    const arrived = arrivedAt.get(event.id)
    if (arrived === undefined) return
    assert(event.kind === 'token', `a quiet request ended by ${event.kind}`)
    arrivedAt.delete(event.id)
    waits.push(step - arrived)
  }
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters: new Set(),
    limits,
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => step * 20,
    emit: note,
    onFault: (error) => {
      throw error
    },
  })
  const sources = loads.map((load, index) => ({ load, random: createRandom(index + 1), count: 0 }))
  for (; step < STEP_COUNT; step++) {
    for (const source of sources) {
      const { load, random } = source
      const between = ([low, high]: readonly [number, number]) =>
        low + Math.floor(random() * (high - low))
      for (let left = load.arrivalsPerStep; random() < left; left--) {
        const id = `${load.tenant} ${source.count++}`
        if (load.tenant === tenant) arrivedAt.set(id, step)
        const request = engineRequest({
          id,
          tenant: load.tenant,
          tier: load.tier,
          promptTokens: Array.from({ length: between(load.promptTokens) }, () =>
            Math.floor(random() * TOY_VOCAB_SIZE),
          ),
          maxTokens: between(load.maxTokens),
        })
        const { choiceCount = 1 } = load
        const siblings = Array.from({ length: choiceCount - 1 }, (_, index) => {
          return { ...request, id: `${id}#${index + 1}` }
        })
        engine.submit(request, ...siblings)
      }
    }
    await engine.step()
  }
  expect(runner.misuse).toBeNull()
  return { waits: waits.sort((a, b) => a - b), tokenCount }
}

const quiet: Load = {
  tenant: 'quiet',
  tier: 'standard',
  arrivalsPerStep: 0.04,
  promptTokens: [20, 300],
  maxTokens: [20, 80],
}

const percentile = (sorted: readonly number[], share: number) =>
  sorted[Math.floor(share * sorted.length)]!

/** Who waits for 200 steps of 20 ms counts as more urgent. */
const WHOLE_ENGINE: EngineLimits = {
  ...DEFAULT_ENGINE_LIMITS,
  maxWaitingCount: 64,
  promoteAfterMs: 4000,
}

/** Half the places, and of a step as little as may be. */
const HALF_ENGINE: EngineLimits = {
  ...WHOLE_ENGINE,
  maxRunningCount: DEFAULT_ENGINE_LIMITS.maxRunningCount / 2,
  maxStepTokens: DEFAULT_ENGINE_LIMITS.maxRunningCount / 2 + DEFAULT_ENGINE_LIMITS.chunkTokens,
}

test('however a tenant floods, the first tokens of another come hardly later than alone on its share of the engine', async () => {
  const alone = await measureFirstTokens('quiet', [quiet], HALF_ENGINE)
  const floods: readonly Partial<Load>[] = [
    { promptTokens: [500, 1500] },
    { maxTokens: [500, 3000] },
    { maxTokens: [500, 3000], choiceCount: 8 },
  ]
  for (const flood of floods) {
    const loads = [quiet, { ...quiet, arrivalsPerStep: 0.4, tenant: 'flood', ...flood }]
    const { waits, tokenCount } = await measureFirstTokens('quiet', loads, WHOLE_ENGINE)
    expect(Math.abs(waits.length - alone.waits.length)).toBeLessThanOrEqual(1)
    expect(percentile(waits, 0.5)).toBeLessThanOrEqual(1.5 * percentile(alone.waits, 0.5))
    expect(percentile(waits, 0.99)).toBeLessThanOrEqual(1.5 * percentile(alone.waits, 0.99))
    expect(tokenCount).toBeGreaterThan(alone.tokenCount)
  }
})
