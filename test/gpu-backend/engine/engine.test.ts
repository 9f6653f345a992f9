import { expect, test } from 'vitest'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineEvent, EngineRequest } from '../../../gpu-backend/engine/engine-port.ts'
import { DEFAULT_ENGINE_LIMITS, type EngineLimits } from '../../../gpu-backend/engine/scheduler.ts'
import { engineRequest, GREEDY } from '../../support/engine-request.ts'
import {
  createToyRunner,
  TOY_EOS,
  type ToyOptions,
  toyTokenBytes,
} from '../../support/toy-runner.ts'

const LIMITS: EngineLimits = {
  ...DEFAULT_ENGINE_LIMITS,
  maxRunningCount: 4,
  maxWaitingCount: 4,
  chunkTokens: 8,
}

function setUp(limits: Partial<EngineLimits> = {}, toy: Partial<ToyOptions> = {}) {
  const runner = createToyRunner({ kvTokens: 208, contextLength: 100, ...toy })
  const events: EngineEvent[] = []
  const faults: { error: unknown; requestIds: readonly string[] }[] = []
  const adapters = new Set(['adapter'])
  const clock = { nowMs: 0 }
  const engine = new Engine({
    runner,
    tokenBytes: toyTokenBytes,
    adapters,
    limits: { ...LIMITS, ...limits },
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => clock.nowMs,
    emit: (event) => events.push(event),
    onFault: (error, requestIds) => faults.push({ error, requestIds }),
  })
  const ofRequest = (id: string) => events.filter((event) => event.id === id)
  const lastOf = (id: string) => ofRequest(id).at(-1)
  return { runner, engine, events, faults, adapters, clock, ofRequest, lastOf }
}

async function drain(engine: Engine): Promise<void> {
  while (engine.hasWork) await engine.step()
}

/** Tokens and text of the answer when it runs alone. */
async function runAlone(request: EngineRequest) {
  const { engine, events } = setUp()
  engine.submit(request)
  await drain(engine)
  return {
    text: events.map((event) => ('text' in event ? event.text : '')).join(''),
    tokenIds: events.flatMap((event) => (event.kind === 'token' ? [event.tokenId] : [])),
    end: events.at(-1),
  }
}

test('streams the tokens that the model gives, counts them, and frees the memory', async () => {
  const { engine, runner, events } = setUp()
  engine.submit(engineRequest({ id: 'r', maxTokens: 3, promptTokens: Array(20).fill(5) }))
  await drain(engine)
  expect(events.map((event) => event.kind)).toEqual(['token', 'token', 'token', 'finish'])
  const usage = { promptTokens: 20, cachedTokens: 0, completionTokens: 3 }
  expect(events.at(-1)).toMatchObject({ reason: 'length', usage })
  expect(runner.chunks).toEqual([
    [0, 8],
    [8, 16],
    [16, 20],
  ])
  expect(engine.stats).toMatchObject({
    stepCount: 5,
    promptTokenCount: 20,
    completionTokenCount: 3,
  })
  expect(engine.stats).toMatchObject({ runningCount: 0, kvUsedTokens: 0, kvTotalTokens: 208 })
})

test('ends at a stop token, which is billed but is neither streamed nor text', async () => {
  const bias = { ...GREEDY, logitBias: [[TOY_EOS, 100]] as const }
  const { end, tokenIds, text } = await runAlone(
    engineRequest({ id: 'r', sampling: bias, stopTokenIds: [TOY_EOS] }),
  )
  expect(tokenIds).toEqual([])
  expect(text).toBe('')
  expect(end).toMatchObject({ kind: 'finish', reason: 'stop', usage: { completionTokens: 1 } })
})

test('ends before a stop string that spans tokens, and gives back what it held when it does not come', async () => {
  const free = await runAlone(engineRequest({ id: 'r', maxTokens: 40 }))
  const stop = free.text.slice(10, 14)
  const cut = await runAlone(engineRequest({ id: 'r', maxTokens: 40, stop: [stop] }))
  expect(cut.text).toBe(free.text.slice(0, free.text.indexOf(stop)))
  expect(cut.end).toMatchObject({ kind: 'finish', reason: 'stop' })
  const missed = await runAlone(engineRequest({ id: 'r', maxTokens: 40, stop: [`${stop}\0`] }))
  expect(missed.text).toBe(free.text)
  const tail = `${free.text.slice(-3)}\0`
  const held = await runAlone(engineRequest({ id: 'r', maxTokens: 40, stop: [tail] }))
  expect(held.text).toBe(free.text)
  expect(held.end).toMatchObject({ kind: 'finish', reason: 'length', text: free.text.slice(-3) })
})

test('cancels between steps, running or waiting, with the usage until then', async () => {
  const { engine, lastOf, runner } = setUp({ maxRunningCount: 1 })
  engine.submit(engineRequest({ id: 'running' }))
  engine.submit(engineRequest({ id: 'waiting' }))
  engine.submit(engineRequest({ id: 'other', promptTokens: Array(20).fill(1) }))
  await engine.step()
  await engine.step()
  engine.cancel('running')
  engine.cancel('waiting')
  engine.cancel('unknown')
  expect(lastOf('running')?.kind).toBe('token')
  await engine.step()
  const usage = { promptTokens: 3, cachedTokens: 0, completionTokens: 2 }
  expect(lastOf('running')).toEqual({ kind: 'cancelled', id: 'running', usage })
  expect(lastOf('waiting')).toMatchObject({ kind: 'cancelled', usage: { promptTokens: 0 } })
  engine.cancel('other')
  await drain(engine)
  expect(lastOf('other')).toMatchObject({
    kind: 'cancelled',
    usage: { promptTokens: 8, completionTokens: 0 },
  })
  expect(runner.liveRowCount()).toBe(0)
})

test('a cancel that comes too late does not touch a later request of the same id', async () => {
  const { engine, lastOf } = setUp()
  engine.submit(engineRequest({ id: 'r', maxTokens: 1 }))
  const step = engine.step()
  engine.cancel('r')
  await step
  expect(lastOf('r')?.kind).toBe('finish')
  engine.submit(engineRequest({ id: 'r', maxTokens: 1 }))
  await drain(engine)
  expect(lastOf('r')?.kind).toBe('finish')
})

test('NaN logits end their sequence alone, and the cause goes to the log, not to the caller', async () => {
  const { engine, lastOf, faults } = setUp(
    {},
    { isPoisoned: ({ kv, tokens }) => kv.id === 1 && tokens.length === 1 },
  )
  for (const id of ['a', 'b', 'c']) engine.submit(engineRequest({ id }))
  await drain(engine)
  expect(['a', 'c'].map((id) => lastOf(id)?.kind)).toEqual(['finish', 'finish'])
  const usage = { promptTokens: 3, cachedTokens: 0, completionTokens: 1 }
  expect(lastOf('b')).toMatchObject({ kind: 'error', code: 'internal_error', usage })
  expect(JSON.stringify(lastOf('b'))).not.toContain('NaN')
  expect(faults).toEqual([{ error: new Error('logit 3 is NaN'), requestIds: ['b'] }])
})

test('a failed run ends the sequences of that step, and the engine goes on', async () => {
  let runCount = 0
  const { engine, lastOf, faults, runner } = setUp(
    {},
    {
      beforeRun: () => {
        if (++runCount === 2) throw new Error('device lost')
      },
    },
  )
  engine.submit(engineRequest({ id: 'a' }))
  engine.submit(engineRequest({ id: 'b' }))
  await engine.step()
  await engine.step()
  engine.submit(engineRequest({ id: 'c' }))
  await drain(engine)
  expect(lastOf('a')).toMatchObject({ kind: 'error', code: 'internal_error' })
  expect(lastOf('b')).toMatchObject({ kind: 'error', code: 'internal_error' })
  expect(lastOf('c')?.kind).toBe('finish')
  expect(faults).toEqual([{ error: new Error('device lost'), requestIds: ['a', 'b'] }])
  expect(runner.liveRowCount()).toBe(0)
})

test('refuses one request too many at once, says when to come back, and takes the next when one has ended', async () => {
  const { engine, lastOf, clock } = setUp({ maxRunningCount: 1, maxWaitingCount: 1 })
  const submit = (id: string) => engine.submit(engineRequest({ id, maxTokens: 1 }))
  for (const id of ['a', 'b', 'c']) submit(id)
  expect(lastOf('c')).toMatchObject({ kind: 'error', code: 'overloaded', retryAfterMs: 1000 })
  clock.nowMs = 250
  await engine.step()
  for (const id of ['d', 'e']) submit(id)
  expect(lastOf('d')).toBeUndefined()
  clock.nowMs = 300
  submit('f')
  expect(lastOf('f')).toMatchObject({ code: 'overloaded', retryAfterMs: expect.any(Number) })
})

test('refuses what can never run, naming the limit', async () => {
  const { engine, lastOf } = setUp()
  const refuse = (fields: Partial<EngineRequest>) => {
    engine.submit(engineRequest({ id: 'r', ...fields }))
    return lastOf('r')
  }
  expect(refuse({ maxTokens: 98 })).toMatchObject({
    code: 'context_length_exceeded',
    message: expect.stringContaining('at most 100 tokens, but 101 were asked for'),
  })
  expect(refuse({ adapter: 'gone' })).toMatchObject({ code: 'adapter_missing' })
  const faults: [Partial<EngineRequest>, string][] = [
    [{ promptTokens: [] }, 'promptTokens is empty'],
    [{ promptTokens: [1, 9999] }, 'promptTokens holds 9999'],
    [{ maxTokens: -1 }, 'maxTokens is -1'],
    [{ sampling: { ...GREEDY, logitBias: [[-1, 1]] } }, 'logitBias names -1'],
    [{ sampling: { ...GREEDY, temperature: Number.NaN } }, 'temperature is NaN'],
    [{ sampling: { ...GREEDY, repetitionPenalty: 0 } }, 'repetitionPenalty is 0'],
  ]
  for (const [fields, message] of faults) {
    expect(refuse(fields)).toMatchObject({
      code: 'internal_error',
      message: expect.stringContaining(message),
    })
  }
  expect(engine.hasWork).toBe(false)
})

test('serves no more context than the KV cache holds', () => {
  const { engine, lastOf } = setUp({}, { kvTokens: 48 })
  engine.submit(engineRequest({ id: 'r', maxTokens: 48 }))
  expect(lastOf('r')).toMatchObject({
    code: 'context_length_exceeded',
    message: expect.stringContaining('at most 48 tokens'),
  })
})

test('a request whose adapter is unloaded ends with adapter_missing, waiting or running', async () => {
  const { engine, lastOf, adapters } = setUp({ maxRunningCount: 2 })
  for (const id of ['a', 'b', 'c']) engine.submit(engineRequest({ id, adapter: 'adapter' }))
  engine.submit(engineRequest({ id: 'base' }))
  await engine.step()
  adapters.delete('adapter')
  await drain(engine)
  for (const id of ['a', 'b', 'c']) expect(lastOf(id)).toMatchObject({ code: 'adapter_missing' })
  expect(lastOf('base')?.kind).toBe('finish')
})
