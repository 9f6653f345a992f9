import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineEvent } from '../../../gpu-backend/engine/engine-port.ts'
import type { EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import { TIERS } from '../../../protocol/backend.ts'
import { engineRequest } from '../../support/engine-request.ts'
import { createToyRunner, TOY_VOCAB_SIZE, toyTokenBytes } from '../../support/toy-runner.ts'

/** Nobody is refused for waiting: whoever has a place in the queue must come to its end by turns. */
const LIMITS: EngineLimits = {
  maxRunningCount: 4,
  maxWaitingCount: 8,
  maxWaitMs: 1_000_000,
  promoteAfterMs: 10,
  chunkTokens: 4,
}
const MAX_PROMPT_TOKENS = 24
const MAX_TOKENS = 20
const LIVE_COUNT = LIMITS.maxRunningCount + LIMITS.maxWaitingCount

/**
 * Steps of 1 ms. A request is as urgent as any after two promotions; then at most `LIVE_COUNT` others
 * and once more as many go before it, each of them with all its chunks and tokens, one after another.
 */
const REQUEST_STEPS = MAX_PROMPT_TOKENS / LIMITS.chunkTokens + MAX_TOKENS
const BOUND_STEPS = 2 * LIMITS.promoteAfterMs + 2 * LIVE_COUNT * REQUEST_STEPS

const fields = fc.record({
  tenant: fc.constantFrom('a', 'b', 'c'),
  tier: fc.constantFrom(...TIERS),
  promptTokens: fc.array(fc.nat(TOY_VOCAB_SIZE - 1), {
    minLength: 1,
    maxLength: MAX_PROMPT_TOKENS,
    size: 'max',
  }),
  maxTokens: fc.integer({ min: 1, max: MAX_TOKENS }),
})

/** What comes while they run: of old tenants, and of ever new ones. */
const later = fc.record({
  count: fc.nat(2),
  fields,
  isNewTenant: fc.boolean(),
  choiceCount: fc.constantFrom(1, 1, 1, 2, 5),
  cancels: fc.option(fc.nat(20), { freq: 6 }),
})

test('whoever has a place in the queue ends within a bound, whatever comes after it', async () => {
  let preemptionCount = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(fields, { minLength: 1, maxLength: LIVE_COUNT }),
      fc.infiniteStream(later),
      fc.integer({ min: 1, max: LIMITS.maxWaitingCount }),
      async (first, stream, choiceCount) => {
        const runner = createToyRunner({ kvTokens: 64, contextLength: 48, pageTokens: 4 })
        const clock = { nowMs: 0 }
        const ended = new Set<string>()
        const engine = new Engine({
          runner,
          tokenBytes: toyTokenBytes,
          adapters: new Set(),
          limits: LIMITS,
          modelDigest: 'model',
          prefixSharing: 'tenant',
          nowMs: () => clock.nowMs,
          emit: (event: EngineEvent) => event.kind !== 'token' && ended.add(event.id),
          onFault: (error) => {
            throw error
          },
        })
        // The first of them come together, as choices of one prompt.
        const group = first.slice(0, choiceCount).map((request) => ({ ...request, ...first[0]! }))
        const all = [...group, ...first.slice(choiceCount)].map((request, index) =>
          engineRequest({ ...request, id: `first ${index}` }),
        )
        engine.submit(...all.slice(0, choiceCount))
        for (const request of all.slice(choiceCount)) engine.submit(request)
        const isOver = () => first.every((_, index) => ended.has(`first ${index}`))
        let count = 0
        for (; !isOver() && clock.nowMs < BOUND_STEPS; clock.nowMs++) {
          const next = stream.next().value
          for (let copy = 0; copy < next.count; copy++) {
            const tenant = next.isNewTenant ? `new ${count}` : next.fields.tenant
            const choices = Array.from({ length: next.choiceCount }, () =>
              engineRequest({ ...next.fields, tenant, id: `later ${count++}` }),
            )
            engine.submit(...choices)
          }
          if (next.cancels !== null) engine.cancel(`later ${count - next.cancels}`)
          await engine.step()
        }
        preemptionCount += engine.stats.preemptionCount
        expect(runner.misuse).toBeNull()
        expect(isOver()).toBe(true)
      },
    ),
    { numRuns: 60 },
  )
  expect(preemptionCount).toBeGreaterThan(50)
})
