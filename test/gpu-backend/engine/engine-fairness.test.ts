import assert from 'node:assert/strict'
import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineRequest } from '../../../gpu-backend/engine/engine-port.ts'
import { DEFAULT_ENGINE_LIMITS, type EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import type { Tier } from '../../../protocol/backend.ts'
import { engineRequest } from '../../support/engine-request.ts'
import { createRandom } from '../../support/random.ts'
import { createToyRunner, TOY_VOCAB_SIZE, toyTokenBytes } from '../../support/toy-runner.ts'

interface Load {
  readonly tenant: string
  readonly tier: Tier
  /** Poisson's process. */
  readonly meanGapMs: number
  readonly promptTokens: readonly [number, number]
  readonly maxTokens: readonly [number, number]
  /** Default 1. */
  readonly choiceCount?: number
}

const LOAD_MS = 40_000

/** As on two cores: a step's own cost, and a token's. */
const STEP_MS = 10
const TOKEN_MS = 1.5

/** From arrival to the first token of the tenant's requests, sorted; and what was computed a second. */
async function measureFirstTokens(tenant: string, loads: readonly Load[], limits: EngineLimits) {
  let nowMs = 0
  let busyMs = 0
  let tokenCount = 0
  const runner = createToyRunner({
    kvTokens: 65_536,
    contextLength: 4_096,
    pageTokens: 64,
    beforeRun: (rows) => {
      const count = rows.reduce((sum, { tokens }) => sum + tokens.length, 0)
      tokenCount += count
      busyMs += STEP_MS + TOKEN_MS * count
      nowMs += STEP_MS + TOKEN_MS * count
    },
  })
  const arrivedAtMs = new Map<string, number>()
  const waitsMs: number[] = []
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters: new Set(),
    limits,
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => nowMs,
    emit: ({ kind, id }) => {
      const arrivedMs = arrivedAtMs.get(id)
      if (arrivedMs === undefined) return
      assert(kind === 'token', `a quiet request ended by ${kind}`)
      arrivedAtMs.delete(id)
      waitsMs.push(nowMs - arrivedMs)
    },
    onFault: (error) => {
      throw error
    },
  })
  const arrivals = loads.flatMap(planArrivals).sort((a, b) => b.atMs - a.atMs)
  while (arrivals.length > 0 || arrivedAtMs.size > 0) {
    if (!engine.hasWork) nowMs = Math.max(nowMs, arrivals.at(-1)?.atMs ?? 0)
    while ((arrivals.at(-1)?.atMs ?? Number.POSITIVE_INFINITY) <= nowMs) {
      const { atMs, requests } = arrivals.pop()!
      const [first] = requests
      if (first?.tenant === tenant) arrivedAtMs.set(first.id, atMs)
      engine.submit(...requests)
    }
    await engine.step()
  }
  expect(runner.misuse).toBeNull()
  return { waitsMs: waitsMs.sort((a, b) => a - b), tokensPerMs: tokenCount / busyMs }
}

function planArrivals(load: Load, index: number) {
  const random = createRandom(index + 1)
  const between = ([low, high]: readonly [number, number]) =>
    low + Math.floor(random() * (high - low))
  const arrivals: { readonly atMs: number; readonly requests: readonly EngineRequest[] }[] = []
  for (let atMs = 0; ; ) {
    atMs -= load.meanGapMs * Math.log(1 - random())
    if (atMs >= LOAD_MS) return arrivals
    const id = `${load.tenant} ${arrivals.length}`
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
    const requests = Array.from({ length: choiceCount }, (_, choice) => {
      return choice === 0 ? request : { ...request, id: `${id}#${choice}` }
    })
    arrivals.push({ atMs, requests })
  }
}

const percentile = (sorted: readonly number[], share: number) =>
  sorted[Math.floor(share * sorted.length)]!

const quiet: Load = {
  tenant: 'quiet',
  tier: 'standard',
  meanGapMs: 400,
  promptTokens: [8, 65],
  maxTokens: [4, 17],
}

/** Who waits for so long counts as more urgent. */
const LIMITS: EngineLimits = {
  ...DEFAULT_ENGINE_LIMITS,
  maxWaitingCount: 64,
  promoteAfterMs: 20_000,
}

test('however a tenant floods, the first tokens of another come hardly later than alone', async () => {
  const alone = await measureFirstTokens('quiet', [quiet], LIMITS)
  const floods: readonly Partial<Load>[] = [
    {},
    { promptTokens: [500, 1500] },
    { maxTokens: [500, 3000] },
    { maxTokens: [500, 3000], choiceCount: 8 },
  ]
  for (const flood of floods) {
    const loads = [quiet, { ...quiet, meanGapMs: quiet.meanGapMs / 10, tenant: 'flood', ...flood }]
    const { waitsMs, tokensPerMs } = await measureFirstTokens('quiet', loads, LIMITS)
    expect(waitsMs).toHaveLength(alone.waitsMs.length)
    expect(percentile(waitsMs, 0.99)).toBeLessThanOrEqual(1.5 * percentile(alone.waitsMs, 0.99))
    const flooded = await measureFirstTokens('quiet', loads.slice(1), LIMITS)
    expect(tokensPerMs).toBeGreaterThan(0.95 * flooded.tokensPerMs)
  }
})
