import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineEvent, EngineRequest } from '../../../gpu-backend/engine/engine-port.ts'
import type { EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import { TIERS } from '../../../protocol/backend.ts'
import { engineRequest, GREEDY } from '../../support/engine-request.ts'
import {
  createToyRunner,
  TOY_EOS,
  TOY_VOCAB_SIZE,
  type ToyOptions,
  type ToyRunner,
  toyTokenBytes,
} from '../../support/toy-runner.ts'

const LIMITS: EngineLimits = {
  maxRunningCount: 5,
  maxWaitingCount: 6,
  maxWaitMs: 60,
  promoteAfterMs: 15,
  chunkTokens: 4,
}

function setUp(options: Partial<ToyOptions> = {}, limits = LIMITS) {
  const runner = createToyRunner({ kvTokens: 80, contextLength: 60, pageTokens: 4, ...options })
  const clock = { nowMs: 0 }
  const events: EngineEvent[] = []
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters: new Set(['x', 'y']),
    limits,
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => clock.nowMs,
    emit: (event) => events.push(event),
    onFault: () => {},
  })
  return { runner, engine, events, clock }
}

const requestFields = fc.record({
  tenant: fc.constantFrom('a', 'b', 'c'),
  tier: fc.constantFrom(...TIERS),
  // Beginnings that several share, and tails of their own.
  promptTokens: fc
    .tuple(fc.nat(14), fc.array(fc.nat(TOY_VOCAB_SIZE - 1), { minLength: 1, maxLength: 6 }))
    .map(([length, tail]) => [...Array(length).keys(), ...tail]),
  adapter: fc.constantFrom(null, 'x', 'y', 'unknown'),
  maxTokens: fc.integer({ min: 1, max: 45 }),
  stop: fc.constantFrom([], ['a', 'zz'], ['STOP', 'é']),
  stopTokenIds: fc.constantFrom([], [TOY_EOS]),
  sampling: fc.record({
    temperature: fc.constantFrom(0, 1),
    topP: fc.constantFrom(1, 0.8),
    seed: fc.tuple(fc.nat(), fc.nat()),
    repetitionPenalty: fc.constantFrom(1, 1.2),
  }),
})

function buildRequests(
  fields: readonly (typeof requestFields extends fc.Arbitrary<infer T> ? T : never)[],
) {
  return fields.map(
    (entry, index): EngineRequest =>
      engineRequest({ ...entry, id: `r${index}`, sampling: { ...GREEDY, ...entry.sampling } }),
  )
}

/** What the caller gets: all but how much of the prompt the cache had. */
function forget(events: readonly EngineEvent[]): unknown[] {
  return events.map((event) =>
    'usage' in event ? { ...event, usage: { ...event.usage, cachedTokens: 0 } } : event,
  )
}

test('gives every request the answer that it gets alone and cold, whatever it finds in the cache and however often it is preempted', async () => {
  let preemptionCount = 0
  let hitTokenCount = 0
  await fc.assert(
    fc.asyncProperty(fc.array(requestFields, { minLength: 2, maxLength: 10 }), async (fields) => {
      // The last of each three comes as two choices that differ by their seed.
      const groups = buildRequests(fields).map((request, index) => {
        const sampling = { ...request.sampling, seed: [index, 1] as const }
        return index % 3 < 2
          ? [request]
          : [request, { ...request, id: `${request.id}#1`, sampling }]
      })
      const requests = groups.flat()
      const together = setUp({}, { ...LIMITS, maxWaitingCount: 12 })
      for (const group of groups) {
        together.engine.submit(...group)
        if (group.length > 1) await together.engine.step()
      }
      while (together.engine.hasWork) await together.engine.step()
      expect(together.runner.misuse).toBeNull()
      preemptionCount += together.engine.stats.preemptionCount
      hitTokenCount += together.engine.stats.prefixHitTokenCount
      for (const request of requests) {
        const alone = setUp()
        alone.engine.submit(request)
        while (alone.engine.hasWork) await alone.engine.step()
        const own = together.events.filter((event) => event.id === request.id)
        expect(forget(own)).toEqual(forget(alone.events))
      }
    }),
    { numRuns: 100, seed: 1 },
  )
  expect(preemptionCount).toBeGreaterThan(50)
  expect(hitTokenCount).toBeGreaterThan(50)
})

const action = fc.oneof(
  { weight: 4, arbitrary: fc.constant({ kind: 'step' as const }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('submit' as const),
      fields: requestFields,
      choiceCount: fc.constantFrom(1, 2, 4, LIMITS.maxWaitingCount),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('cancel' as const), pick: fc.nat() }) },
)

test('whatever is submitted, cancelled and fails: one end each, exact counts, groups refused whole, nothing left', async () => {
  let refusedCount = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(action, { maxLength: 80 }),
      fc.infiniteStream(fc.integer({ min: 0, max: 40 })),
      async (actions, luck) => {
        const roll = () => luck.next().value
        const { engine, runner, events, clock } = setUp({
          beforeRun: () => {
            if (roll() === 0) throw new Error('run failed')
          },
          isPoisoned: () => roll() === 0,
        })
        const requests: EngineRequest[] = []
        const groups: EngineRequest[][] = []
        for (const step of actions) {
          clock.nowMs++
          if (step.kind === 'step') await engine.step()
          if (step.kind === 'cancel') engine.cancel(`r${step.pick % (requests.length + 1)}`)
          if (step.kind === 'submit') {
            const sampling = { ...GREEDY, ...step.fields.sampling }
            const group = Array.from({ length: step.choiceCount }, (_, index) =>
              engineRequest({ ...step.fields, id: `r${requests.length + index}`, sampling }),
            )
            requests.push(...group)
            groups.push(group)
            engine.submit(...group)
          }
          expectPagesConserved(engine, runner)
          expect(engine.stats.runningCount).toBeLessThanOrEqual(LIMITS.maxRunningCount)
          const liveCount = engine.stats.runningCount + engine.stats.waitingCount
          expect(liveCount).toBeLessThanOrEqual(LIMITS.maxRunningCount + LIMITS.maxWaitingCount)
        }
        while (engine.hasWork) await engine.step()
        expectPagesConserved(engine, runner)
        expectConserved(engine, events, requests)
        for (const group of groups) refusedCount += expectRefusedTogether(events, group)
        expect(runner.misuse).toBeNull()
        expect(runner.liveRowCount()).toBe(0)
        const mostTokens = LIMITS.maxRunningCount + LIMITS.chunkTokens
        expect(runner.stepSizes.every((size) => size <= mostTokens)).toBe(true)
      },
    ),
    { numRuns: 150 },
  )
  expect(refusedCount).toBeGreaterThan(10)
})

/** All of those that were not cancelled before, or none; gives how many. */
function expectRefusedTogether(
  events: readonly EngineEvent[],
  group: readonly EngineRequest[],
): number {
  const ids = new Set(group.map(({ id }) => id))
  const own = events.filter(({ id, kind }) => ids.has(id) && kind !== 'cancelled')
  const refused = own.filter((event) => event.kind === 'error' && event.code === 'overloaded')
  if (refused.length > 0) expect(own).toHaveLength(refused.length)
  return refused.length
}

/** Rows have the pages that are accounted as used, each once; the rest is free or cached. */
function expectPagesConserved(engine: Engine, runner: ToyRunner): void {
  const { kvUsedTokens, kvCachedTokens, kvTotalTokens } = engine.stats
  expect(kvUsedTokens).toBe(runner.pageOwners.size * runner.kvPageTokens)
  expect(kvUsedTokens + kvCachedTokens).toBeLessThanOrEqual(kvTotalTokens)
}

function expectConserved(
  engine: Engine,
  events: readonly EngineEvent[],
  requests: readonly EngineRequest[],
): void {
  let promptTokens = 0
  let cachedTokens = 0
  let completionTokens = 0
  for (const { id } of requests) {
    const own = events.filter((event) => event.id === id)
    const end = own.at(-1)!
    expect(own.filter((event) => event.kind !== 'token')).toEqual([end])
    if (end.kind === 'token') continue
    const streamedCount = own.length - 1
    const endsByStop = end.kind === 'finish' && end.reason === 'stop'
    expect(end.usage.completionTokens).toBe(streamedCount + (endsByStop ? 1 : 0))
    promptTokens += end.usage.promptTokens
    cachedTokens += end.usage.cachedTokens
    expect(end.usage.cachedTokens).toBeLessThanOrEqual(end.usage.promptTokens)
    completionTokens += end.usage.completionTokens
  }
  expect(engine.stats).toMatchObject({
    runningCount: 0,
    waitingCount: 0,
    kvUsedTokens: 0,
    promptTokenCount: promptTokens,
    prefixHitTokenCount: cachedTokens,
    completionTokenCount: completionTokens,
  })
}
