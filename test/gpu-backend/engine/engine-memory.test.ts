import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { PrefixSharing } from '../../../gpu-backend/engine/engine-parts.ts'
import type { EngineEvent, EngineRequest } from '../../../gpu-backend/engine/engine-port.ts'
import { DEFAULT_ENGINE_LIMITS, type EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import { engineRequest } from '../../support/engine-request.ts'
import { createToyRunner, type ToyOptions, toyTokenBytes } from '../../support/toy-runner.ts'

const LIMITS: EngineLimits = {
  maxRunningCount: 4,
  maxWaitingCount: 8,
  maxWaitMs: 1000,
  promoteAfterMs: 100,
  chunkTokens: 8,
}

interface Options {
  readonly limits?: Partial<EngineLimits>
  readonly toy?: Partial<ToyOptions>
  readonly prefixSharing?: PrefixSharing
}

/** Pages of 8 tokens, 10 of them. */
function setUp({ limits, toy, prefixSharing = 'tenant' }: Options = {}) {
  const runner = createToyRunner({ kvTokens: 80, pageTokens: 8, ...toy })
  const events: EngineEvent[] = []
  const clock = { nowMs: 0 }
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters: new Set(['adapter']),
    limits: { ...LIMITS, ...limits },
    modelDigest: 'model',
    prefixSharing,
    nowMs: () => clock.nowMs,
    emit: (event) => events.push(event),
    onFault: () => {},
  })
  const submit = (id: string, fields: Partial<EngineRequest> = {}) =>
    engine.submit(engineRequest({ id, ...fields }))
  const drain = async () => {
    while (engine.hasWork) await engine.step()
    expect(runner.misuse).toBeNull()
  }
  const answerOf = (id: string) =>
    events.flatMap((event) => (event.id === id && event.kind === 'token' ? [event.tokenId] : []))
  const endOf = (id: string) => events.find((event) => event.id === id && event.kind !== 'token')
  const endOrder = () => events.filter((event) => event.kind !== 'token').map(({ id }) => id)
  return { runner, engine, events, clock, submit, drain, answerOf, endOf, endOrder }
}

async function answerAlone(fields: Partial<EngineRequest>): Promise<readonly number[]> {
  const { submit, drain, answerOf } = setUp()
  submit('r', fields)
  await drain()
  return answerOf('r')
}

const PROMPT = Array.from({ length: 20 }, (_, index) => index + 3)

test('at the default size, 32 chats without a limit run at once where reserving the whole context let 8', async () => {
  const kvTokens = 65_536
  const contextLength = 8_192
  const { engine, submit } = setUp({
    limits: DEFAULT_ENGINE_LIMITS,
    toy: { kvTokens, contextLength, pageTokens: 64 },
  })
  const promptTokens = Array(100).fill(5)
  for (let index = 0; index < 40; index++) {
    submit(`r${index}`, { promptTokens, maxTokens: contextLength - promptTokens.length })
  }
  await engine.step()
  expect(engine.stats.runningCount).toBe(32)
  expect(Math.floor(kvTokens / contextLength)).toBe(8)
})

test('lets no small request overtake a large one of its level', async () => {
  const { engine, submit, drain, endOrder } = setUp()
  submit('first', { promptTokens: Array(40).fill(1), maxTokens: 4 })
  submit('large', { promptTokens: Array(60).fill(2), maxTokens: 8 })
  submit('small', { promptTokens: [3], maxTokens: 2 })
  await engine.step()
  expect(engine.stats).toMatchObject({ runningCount: 1, waitingCount: 2, kvUsedTokens: 48 })
  await drain()
  expect(endOrder()).toEqual(['first', 'small', 'large'])
})

test('out of memory, the least urgent and of those the latest gives way; it goes on later with the same answer, nothing said or counted twice', async () => {
  const { engine, submit, drain, answerOf, endOf, endOrder } = setUp()
  const fields = { promptTokens: PROMPT, maxTokens: 30 }
  submit('batch', { ...fields, tier: 'batch' })
  for (let step = 0; step < 6; step++) await engine.step()
  expect(answerOf('batch')).not.toEqual([])
  submit('early', fields)
  submit('late', { ...fields, promptTokens: PROMPT.toReversed() })
  await drain()
  expect(engine.stats.preemptionCount).toBeGreaterThanOrEqual(2)
  expect(endOrder()).toEqual(['early', 'late', 'batch'])
  for (const id of ['batch', 'early', 'late']) {
    const promptTokens = id === 'late' ? PROMPT.toReversed() : PROMPT
    expect(answerOf(id)).toEqual(await answerAlone({ ...fields, promptTokens }))
    const cachedTokens = id === 'early' ? 16 : 0
    const usage = { promptTokens: 20, cachedTokens, completionTokens: 30 }
    expect(endOf(id)).toMatchObject({ reason: 'length', usage })
  }
})

test('a preempted request can be cancelled while it waits, with all that it used', async () => {
  const { engine, submit, drain, answerOf, endOf, runner } = setUp()
  const fields = { promptTokens: PROMPT, maxTokens: 50 }
  submit('early', fields)
  submit('late', fields)
  while (engine.stats.preemptionCount === 0) await engine.step()
  engine.cancel('late')
  await drain()
  const usage = { promptTokens: 20, cachedTokens: 0, completionTokens: answerOf('late').length }
  expect(endOf('late')).toEqual({ kind: 'cancelled', id: 'late', usage })
  expect(usage.completionTokens).toBeGreaterThan(0)
  expect(runner.liveRowCount()).toBe(0)
})

test('what a preempted answer left is found by itself alone: a prompt of the same tokens is computed in chunks', async () => {
  const { engine, submit, drain, answerOf, endOf } = setUp({ limits: { maxRunningCount: 1 } })
  submit('batch', { promptTokens: PROMPT, maxTokens: 30, tier: 'batch' })
  while (answerOf('batch').length < 20) await engine.step()
  const promptTokens = [...PROMPT, ...answerOf('batch')]
  submit('same tokens', { promptTokens, tier: 'interactive' })
  await drain()
  expect(engine.stats.preemptionCount).toBe(1)
  expect(endOf('same tokens')).toMatchObject({ usage: { cachedTokens: 16 } })
  expect(answerOf('same tokens')).toEqual(await answerAlone({ promptTokens }))
  expect(answerOf('batch')).toEqual(await answerAlone({ promptTokens: PROMPT, maxTokens: 30 }))
})

test('a prompt that begins like an earlier one finds its whole pages but the last token, and answers the same', async () => {
  const { engine, submit, drain, answerOf, endOf, runner } = setUp()
  submit('cold', { promptTokens: PROMPT })
  await drain()
  const ranBefore = runner.stepSizes.length
  submit('warm', { promptTokens: PROMPT })
  await drain()
  expect(answerOf('warm')).toEqual(answerOf('cold'))
  const usage = { promptTokens: 20, cachedTokens: 16, completionTokens: 8 }
  expect(endOf('warm')).toMatchObject({ usage })
  expect(runner.stepSizes[ranBefore]).toBe(4)
  expect(engine.stats).toMatchObject({
    prefixQueryTokenCount: 40,
    prefixHitTokenCount: 16,
    promptTokenCount: 40,
  })
  // A prompt that ends with a page still runs that page, for the logits of its last token.
  submit('page', { promptTokens: PROMPT.slice(0, 16) })
  await drain()
  expect(endOf('page')).toMatchObject({ usage: { cachedTokens: 8 } })
  // What an answer wrote was not computed in chunks: a prompt that repeats it does not find it.
  submit('turn', { promptTokens: [...PROMPT, ...answerOf('cold'), 7] })
  await drain()
  expect(endOf('turn')).toMatchObject({ usage: { promptTokens: 29, cachedTokens: 16 } })
})

test('two that run at once share what the first computed', async () => {
  const { engine, submit, drain, answerOf, endOf } = setUp()
  submit('first', { promptTokens: PROMPT, maxTokens: 12 })
  await engine.step()
  await engine.step()
  await engine.step()
  submit('second', { promptTokens: PROMPT, maxTokens: 12 })
  await drain()
  expect(endOf('second')).toMatchObject({ usage: { cachedTokens: 16 } })
  expect(answerOf('second')).toEqual(answerOf('first'))
})

test.each([
  { sharing: 'tenant', own: 16, others: 0 },
  { sharing: 'everyone', own: 16, others: 16 },
  { sharing: 'nobody', own: 0, others: 0 },
] as const)(
  'shared with $sharing: finds $own of its own, $others of others, none of another adapter',
  async (row) => {
    const { submit, drain, endOf } = setUp({ prefixSharing: row.sharing })
    const ask = async (id: string, fields: Partial<EngineRequest>) => {
      submit(id, { promptTokens: PROMPT, maxTokens: 1, ...fields })
      await drain()
      const end = endOf(id)
      return end && 'usage' in end ? end.usage.cachedTokens : null
    }
    expect(await ask('cold', { tenant: 'a' })).toBe(0)
    expect(await ask('own', { tenant: 'a' })).toBe(row.own)
    expect(await ask('other', { tenant: 'b' })).toBe(row.others)
    expect(await ask('adapter', { tenant: 'a', adapter: 'adapter' })).toBe(0)
  },
)

test('what is cached never keeps a running request from memory', async () => {
  const { engine, submit, drain, endOf } = setUp()
  for (let index = 0; index < 8; index++) {
    submit(`r${index}`, { promptTokens: PROMPT.map((token) => token + index) })
    await drain()
  }
  expect(engine.stats).toMatchObject({ kvUsedTokens: 0, kvCachedTokens: 64 })
  submit('whole', { promptTokens: Array(50).fill(1), maxTokens: 30 })
  await drain()
  expect(endOf('whole')).toMatchObject({ reason: 'length' })
  expect(engine.stats.preemptionCount).toBe(0)
})

test('an urgent request takes the place of running less urgent ones, which go on later; ones of its own level keep theirs', async () => {
  const { engine, submit, drain, endOrder, answerOf } = setUp({ limits: { maxRunningCount: 2 } })
  submit('batch 1', { tier: 'batch' })
  submit('batch 2', { tier: 'batch' })
  await engine.step()
  for (const id of ['urgent 1', 'urgent 2', 'urgent 3']) {
    submit(id, { tier: 'interactive', maxTokens: 4 })
  }
  await engine.step()
  expect(engine.stats).toMatchObject({ runningCount: 2, preemptionCount: 2 })
  await drain()
  expect(endOrder()).toEqual(['urgent 1', 'urgent 2', 'urgent 3', 'batch 1', 'batch 2'])
  expect(engine.stats.preemptionCount).toBe(2)
  expect(answerOf('batch 1')).toEqual(await answerAlone({}))
})

test('nobody starves: a batch request ends under an endless flood of interactive ones', async () => {
  const { engine, submit, endOf, clock } = setUp({ limits: { maxRunningCount: 2 } })
  submit('batch', { tier: 'batch', tenant: 'poor' })
  for (let step = 0; step < 400 && endOf('batch') === undefined; step++) {
    clock.nowMs += 1
    submit(`flood ${step}`, { tier: 'interactive', tenant: `rich ${step % 3}` })
    await engine.step()
  }
  expect(endOf('batch')).toMatchObject({ reason: 'length' })
  expect(clock.nowMs).toBeGreaterThan(100)
})

test('one tenant cannot fill the queue for the others: its last waiting request leaves, with a true retry time', async () => {
  const { engine, submit, endOf } = setUp({ limits: { maxRunningCount: 1, maxWaitingCount: 4 } })
  for (let index = 0; index < 6; index++) submit(`flood ${index}`, { tenant: 'flood' })
  expect(endOf('flood 5')).toMatchObject({ code: 'overloaded' })
  await engine.step()
  for (let index = 0; index < 4; index++) submit(`other ${index}`, { tenant: 'other' })
  const refused = { kind: 'error', code: 'overloaded', retryAfterMs: expect.any(Number) }
  expect(['flood 4', 'flood 3'].map(endOf)).toMatchObject([refused, refused])
  expect(['flood 1', 'flood 2', 'other 0', 'other 1'].map(endOf)).toEqual(Array(4).fill(undefined))
  expect(['other 2', 'other 3'].map(endOf)).toMatchObject([refused, refused])
})

test('a full queue sheds the less urgent of a tenant first, and never one that has said something', async () => {
  const { engine, submit, endOf } = setUp({ limits: { maxRunningCount: 1, maxWaitingCount: 2 } })
  submit('begun', { tier: 'batch' })
  await engine.step()
  submit('urgent', { tier: 'interactive', maxTokens: 50 })
  await engine.step()
  submit('standard')
  submit('urgent too', { tier: 'interactive' })
  expect(endOf('standard')).toMatchObject({ code: 'overloaded' })
  submit('urgent as well', { tier: 'interactive' })
  expect(endOf('urgent as well')).toMatchObject({ code: 'overloaded' })
  expect(engine.stats).toMatchObject({ runningCount: 1, waitingCount: 2, preemptionCount: 1 })
  expect(endOf('begun')).toBeUndefined()
})

test('a request that was not begun in time is refused; one that was preempted is not', async () => {
  const { engine, submit, drain, clock, endOf } = setUp({
    limits: { maxRunningCount: 1, promoteAfterMs: 1_000_000 },
  })
  submit('begun', { tier: 'batch' })
  await engine.step()
  submit('urgent', { tier: 'interactive', maxTokens: 20 })
  submit('waiting', { tier: 'batch' })
  await engine.step()
  clock.nowMs = 1000
  await engine.step()
  expect(endOf('waiting')).toBeUndefined()
  clock.nowMs = 1001
  await engine.step()
  expect(endOf('waiting')).toMatchObject({ code: 'overloaded', usage: { promptTokens: 0 } })
  await drain()
  expect(endOf('begun')).toMatchObject({ reason: 'length' })
})

test('chunks must divide pages, or what a page holds would depend on the prompt behind it', () => {
  expect(() => setUp({ limits: { chunkTokens: 5 } })).toThrow('chunkTokens is 5')
})
