import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { PrefixSharing } from '../../../gpu-backend/engine/engine-parts.ts'
import type { EngineEvent, EngineRequest } from '../../../gpu-backend/engine/engine-port.ts'
import type { EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import { engineRequest, GREEDY } from '../../support/engine-request.ts'
import { createToyRunner, toyTokenBytes } from '../../support/toy-runner.ts'

const LIMITS: EngineLimits = {
  maxRunningCount: 4,
  maxWaitingCount: 8,
  maxWaitMs: 1000,
  promoteAfterMs: 1_000_000,
  chunkTokens: 8,
}

/** Pages of 8 tokens, 50 of them. */
function setUp(limits: Partial<EngineLimits> = {}, prefixSharing: PrefixSharing = 'tenant') {
  const runner = createToyRunner({ kvTokens: 400, pageTokens: 8 })
  const events: EngineEvent[] = []
  const clock = { nowMs: 0 }
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters: new Set(),
    limits: { ...LIMITS, ...limits },
    modelDigest: 'model',
    prefixSharing,
    nowMs: () => clock.nowMs,
    emit: (event) => events.push(event),
    onFault: (error) => {
      throw error
    },
  })
  /** Choices `name#0` and so on, each with a seed of its own. */
  const submit = (name: string, count: number, fields: Partial<EngineRequest> = {}) =>
    engine.submit(...planChoices(name, count, fields))
  const drain = async () => {
    while (engine.hasWork) await engine.step()
    expect(runner.misuse).toBeNull()
  }
  const answerOf = (id: string) =>
    events.flatMap((event) => (event.id === id && event.kind === 'token' ? [event.tokenId] : []))
  const endOf = (id: string) => events.find((event) => event.id === id && event.kind !== 'token')
  const endsOf = (name: string, count: number) =>
    Array.from({ length: count }, (_, index) => endOf(`${name}#${index}`))
  return { runner, engine, events, clock, submit, drain, answerOf, endOf, endsOf }
}

function planChoices(name: string, count: number, fields: Partial<EngineRequest>) {
  return Array.from({ length: count }, (_, index) =>
    engineRequest({
      id: `${name}#${index}`,
      sampling: { ...GREEDY, temperature: 1, seed: [index, 7] },
      ...fields,
    }),
  )
}

const REFUSED = { kind: 'error', code: 'overloaded', retryAfterMs: expect.any(Number) }
const LONG_PROMPT = Array.from({ length: 60 }, (_, index) => (index * 7) % 30)

test('choices are accepted together or refused together, at once and with one retry time', () => {
  const { engine, submit, endsOf, events } = setUp()
  submit('first', 8)
  submit('too many', 5)
  expect(endsOf('too many', 5)).toMatchObject(Array(5).fill(REFUSED))
  const times = endsOf('too many', 5).map((end) => end?.kind === 'error' && end.retryAfterMs)
  expect(new Set(times).size).toBe(1)
  submit('just right', 4)
  expect(events).toHaveLength(5)
  expect(engine.stats.waitingCount).toBe(12)
})

test('the retry time is until there are places for all that were refused', () => {
  const retryOf = (count: number) => {
    const { submit, endOf } = setUp()
    submit('full', 8)
    submit('full too', 4)
    submit('late', count)
    const end = endOf('late#0')
    return end?.kind === 'error' ? end.retryAfterMs : null
  }
  expect(retryOf(6)).toBe(6 * retryOf(1)!)
})

test('more choices than may wait are refused for good, and leave nothing behind', () => {
  const { engine, submit, endsOf } = setUp()
  submit('all', 9)
  const never = { kind: 'error', code: 'internal_error', retryAfterMs: null }
  expect(endsOf('all', 9)).toMatchObject(Array(9).fill(never))
  expect(engine.hasWork).toBe(false)
})

test('one bad choice refuses all, and none has run', () => {
  const { engine, endsOf } = setUp()
  const [good, bad] = planChoices('r', 2, {})
  engine.submit(good!, { ...bad!, adapter: 'unknown' })
  expect(endsOf('r', 2)).toMatchObject(Array(2).fill({ code: 'adapter_missing' }))
  expect(engine.hasWork).toBe(false)
})

test('a group that has not begun leaves whole for another tenant; for a request of the same share it stays', async () => {
  const { engine, submit, endsOf } = setUp({ maxRunningCount: 1 })
  submit('running', 1, { tenant: 'flood', maxTokens: 50 })
  await engine.step()
  submit('early', 4, { tenant: 'flood' })
  submit('late', 4, { tenant: 'flood' })
  submit('other', 3, { tenant: 'other' })
  expect(endsOf('late', 4)).toMatchObject(Array(4).fill(REFUSED))
  expect(endsOf('early', 4)).toEqual(Array(4).fill(undefined))
  expect(engine.stats.waitingCount).toBe(7)
  submit('others', 2, { tenant: 'other' })
  expect(endsOf('others', 2)).toMatchObject(Array(2).fill(REFUSED))
  expect([...endsOf('early', 4), ...endsOf('other', 3)]).toEqual(Array(7).fill(undefined))
})

test('once a choice has begun, the others are neither displaced nor too late', async () => {
  const { engine, submit, endsOf, clock, drain } = setUp({ maxRunningCount: 1 })
  submit('begun', 8, { tenant: 'flood', maxTokens: 3 })
  await engine.step()
  submit('last', 1, { tenant: 'other' })
  submit('none', 1, { tenant: 'third' })
  expect(endsOf('none', 1)).toMatchObject([REFUSED])
  clock.nowMs = 1001
  await engine.step()
  expect(endsOf('last', 1)).toMatchObject([REFUSED])
  await drain()
  expect(endsOf('begun', 8)).toMatchObject(Array(8).fill({ kind: 'finish' }))
})

test('a group that was not begun in time is refused whole', async () => {
  const { engine, submit, endsOf, clock } = setUp({ maxRunningCount: 1 })
  submit('running', 1, { maxTokens: 50 })
  await engine.step()
  submit('waiting', 5)
  clock.nowMs = 1001
  await engine.step()
  expect(endsOf('waiting', 5)).toMatchObject(Array(5).fill(REFUSED))
  expect(engine.stats).toMatchObject({ runningCount: 1, waitingCount: 0 })
})

test.each(['tenant', 'nobody'] as const)(
  'shared with %s: choices of one prompt cost one prefill and what is behind its last page, each the same as alone',
  async (sharing) => {
    const { runner, submit, drain, answerOf, endOf } = setUp({}, sharing)
    const fields = { promptTokens: LONG_PROMPT, maxTokens: 5 }
    submit('r', 4, fields)
    await drain()
    // 60 for the first, the last 4 again for each of the others, and what was sampled before the last.
    const tokenCount = runner.stepSizes.reduce((sum, size) => sum + size, 0)
    expect(tokenCount).toBe(60 + 3 * 4 + 4 * 4)
    for (const request of planChoices('r', 4, fields)) {
      const alone = setUp()
      alone.engine.submit(request)
      await alone.drain()
      expect(answerOf(request.id)).toEqual(alone.answerOf(request.id))
      const cachedTokens = request.id === 'r#0' ? 0 : 56
      expect(endOf(request.id)).toMatchObject({ usage: { promptTokens: 60, cachedTokens } })
    }
    submit('again', 1, fields)
    await drain()
    const cachedTokens = sharing === 'nobody' ? 0 : 56
    expect(endOf('again#0')).toMatchObject({ usage: { promptTokens: 60, cachedTokens } })
  },
)

test('prompts of one request that begin alike share that beginning', async () => {
  const { runner, engine, drain, endOf } = setUp()
  const [first, second] = planChoices('r', 2, { promptTokens: LONG_PROMPT, maxTokens: 1 })
  engine.submit(first!, { ...second!, promptTokens: [...LONG_PROMPT.slice(0, 42), 1, 2, 3] })
  await drain()
  expect(endOf('r#1')).toMatchObject({ usage: { promptTokens: 45, cachedTokens: 40 } })
  expect(runner.stepSizes.reduce((sum, size) => sum + size, 0)).toBe(60 + 5)
})

test('a choice that waits for the prompt of another takes no place from others, and goes on alone when that one is gone', async () => {
  const { engine, submit, drain, answerOf, endsOf } = setUp({ maxRunningCount: 2 })
  const fields = { promptTokens: LONG_PROMPT, maxTokens: 5 }
  submit('r', 2, fields)
  submit('later', 1)
  await engine.step()
  expect(engine.stats).toMatchObject({ runningCount: 2, waitingCount: 1 })
  engine.cancel('r#0')
  await drain()
  expect(endsOf('r', 2)).toMatchObject([{ kind: 'cancelled' }, { reason: 'length' }])
  const alone = setUp()
  alone.engine.submit(...planChoices('r', 2, fields).slice(1))
  await alone.drain()
  expect(answerOf('r#1')).toEqual(alone.answerOf('r#1'))
})

test('inputs of one embedding request take as many places as can run, in turns, and are refused whole', async () => {
  const { engine, submit, drain, endsOf } = setUp()
  const embedding = { maxTokens: 0, embed: true }
  submit('full', 8)
  submit('embedded', 30, embedding)
  expect(engine.stats.waitingCount).toBe(12)
  submit('refused', 30, embedding)
  expect(endsOf('refused', 30)).toMatchObject(Array(30).fill(REFUSED))
  expect(engine.stats.waitingCount).toBe(12)
  await engine.step()
  engine.cancel('embedded#29')
  while (engine.hasWork) {
    await engine.step()
    expect(engine.stats.waitingCount + engine.stats.runningCount).toBeLessThanOrEqual(12)
  }
  await drain()
  const ends = endsOf('embedded', 30).map((end) => end?.kind)
  expect(ends).toEqual([...Array(29).fill('finish'), 'cancelled'])
})
