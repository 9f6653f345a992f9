import { MessageChannel, type MessagePort } from 'node:worker_threads'
import { afterEach, expect, test } from 'vitest'
import type { LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'
import type { EngineEvent } from '../../gpu-backend/engine/engine-port.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../gpu-backend/engine/scheduler.ts'
import type { EngineFault } from '../../gpu-backend/engine-messages.ts'
import { createPortEngine } from '../../gpu-backend/port-engine.ts'
import { type AdapterSlots, serveEngine } from '../../gpu-backend/serve-engine.ts'
import { engineRequest } from '../support/engine-request.ts'
import { createToyRunner, type ToyOptions, toyTokenBytes } from '../support/toy-runner.ts'

const NEVER = new AbortController().signal
const openPorts: MessagePort[] = []

afterEach(() => {
  for (const port of openPorts.splice(0)) port.close()
})

function setUp(toy: Partial<ToyOptions> = {}, slots: Partial<AdapterSlots> = {}) {
  const { port1, port2 } = new MessageChannel()
  openPorts.push(port1)
  const runner = createToyRunner({ kvTokens: 4000, ...toy })
  const served = serveEngine(port2, {
    parts: {
      runner,
      tokenBytes: toyTokenBytes,
      limits: {
        ...DEFAULT_ENGINE_LIMITS,
        maxRunningCount: 8,
        maxWaitingCount: 8,
        chunkTokens: 16,
      },
      modelDigest: 'model',
      prefixSharing: 'tenant',
      nowMs: () => 0,
    },
    slots: { loadAdapter: () => {}, unloadAdapter: () => {}, ...slots },
  })
  const faults: EngineFault[] = []
  const engine = createPortEngine(port1, (fault) => faults.push(fault))
  return { engine, runner, served, faults, closePort: () => port1.close() }
}

async function collect(events: AsyncIterable<EngineEvent>): Promise<EngineEvent[]> {
  const collected: EngineEvent[] = []
  for await (const event of events) collected.push(event)
  return collected
}

function adapterWeights(digest: `0x${string}`): LoraWeights {
  const values = new Float32Array(8)
  const module = { rank: 2, scale: 1, a: values.subarray(0, 4), b: values.subarray(4) }
  return { digest, sizeBytes: 32, modules: new Map([['0.q', module]]) }
}

test('streams to each of many readers its own events, in order, to one end', async () => {
  const { engine } = setUp()
  const ids = Array.from({ length: 16 }, (_, index) => `r${index}`)
  const answers = await Promise.all(
    ids.map((id) => collect(engine.generate(engineRequest({ id, maxTokens: 5 }), NEVER))),
  )
  for (const [index, events] of answers.entries()) {
    expect(events.every((event) => event.id === ids[index])).toBe(true)
    expect(events.map((event) => event.kind)).toEqual([...Array(5).fill('token'), 'finish'])
  }
})

test('requests that are opened together are accepted together, or each is told that all are refused', async () => {
  const { engine } = setUp()
  const open = (name: string, count: number) =>
    engine
      .generateTogether(
        Array.from({ length: count }, (_, index) =>
          engineRequest({ id: `${name}#${index}`, maxTokens: 50 }),
        ),
        NEVER,
      )
      .map(collect)
  const accepted = [...open('first', 8), ...open('second', 6)]
  const refused = open('third', 3)
  for (const events of await Promise.all(refused)) {
    expect(events).toMatchObject([{ kind: 'error', code: 'overloaded' }])
  }
  for (const events of await Promise.all(accepted)) expect(events.at(-1)?.kind).toBe('finish')
})

test('an abort ends the stream with the usage until then; one before the start uses nothing', async () => {
  const { engine, runner } = setUp()
  const controller = new AbortController()
  const events: EngineEvent[] = []
  const request = engineRequest({ id: 'r', maxTokens: 3000 })
  for await (const event of engine.generate(request, controller.signal)) {
    events.push(event)
    if (events.length === 3) controller.abort()
  }
  const end = events.at(-1)!
  expect(end).toMatchObject({ kind: 'cancelled', usage: { completionTokens: events.length - 1 } })
  expect(events.length).toBeLessThan(3000)
  expect(runner.liveRowCount()).toBe(0)
  expect(await collect(engine.generate(request, controller.signal))).toEqual([
    {
      kind: 'cancelled',
      id: 'r',
      usage: { promptTokens: 0, cachedTokens: 0, completionTokens: 0 },
    },
  ])
})

test('a reader that leaves early cancels, also while it awaits', async () => {
  const { engine, runner } = setUp()
  for await (const event of engine.generate(engineRequest({ id: 'a', maxTokens: 3000 }), NEVER)) {
    expect(event.kind).toBe('token')
    break
  }
  const iterator = engine
    .generate(engineRequest({ id: 'b', maxTokens: 3000 }), NEVER)
    [Symbol.asyncIterator]()
  const pending = iterator.next()
  await iterator.return?.()
  expect(await pending).toEqual({ done: true, value: undefined })
  await engine.close()
  expect(runner.liveRowCount()).toBe(0)
  expect(runner.stepSizes.length).toBeLessThan(3000)
})

test('answers calls between the steps of a long answer', async () => {
  const { engine } = setUp()
  const answer = collect(engine.generate(engineRequest({ id: 'r', maxTokens: 500 }), NEVER))
  const seen = new Set<number>()
  for (let call = 0; call < 5; call++) {
    const stats = await engine.stats()
    expect(stats.runningCount + stats.waitingCount).toBe(1)
    seen.add(stats.stepCount)
  }
  expect(seen.size).toBe(5)
  expect((await answer).length).toBe(501)
})

test('loads and unloads adapters while serving; buffers are moved', async () => {
  const loaded: LoraWeights[] = []
  const { engine } = setUp({}, { loadAdapter: (weights) => void loaded.push(weights) })
  const busy = collect(engine.generate(engineRequest({ id: 'busy', maxTokens: 300 }), NEVER))
  const weights = adapterWeights('0x01')
  const { buffer } = weights.modules.get('0.q')!.a
  await engine.loadAdapter(weights)
  expect(buffer.byteLength).toBe(0)
  expect(loaded[0]?.modules.get('0.q')?.b).toEqual(new Float32Array(4))
  expect((await engine.stats()).loadedAdapterCount).toBe(1)
  const named = engineRequest({ id: 'r', adapter: '0x01', maxTokens: 2 })
  expect((await collect(engine.generate(named, NEVER))).at(-1)?.kind).toBe('finish')
  await engine.unloadAdapter('0x01')
  expect(await collect(engine.generate(named, NEVER))).toMatchObject([{ code: 'adapter_missing' }])
  await expect(engine.unloadAdapter('0x01')).rejects.toThrow('The adapter 0x01 is not loaded.')
  expect((await busy).at(-1)?.kind).toBe('finish')
})

test('an adapter that cannot be loaded says why and can be named by nobody', async () => {
  const { engine } = setUp(
    {},
    { loadAdapter: () => Promise.reject(new Error('rank 99 is too much')) },
  )
  await expect(engine.loadAdapter(adapterWeights('0x02'))).rejects.toThrow('rank 99 is too much')
  const named = engineRequest({ id: 'r', adapter: '0x02' })
  expect(await collect(engine.generate(named, NEVER))).toMatchObject([{ code: 'adapter_missing' }])
})

test('tells the log the cause of a fault', async () => {
  const { engine, faults } = setUp({
    beforeRun: () => {
      throw new Error('device lost')
    },
  })
  const events = await collect(engine.generate(engineRequest({ id: 'r' }), NEVER))
  expect(events).toMatchObject([{ kind: 'error', code: 'internal_error' }])
  expect(faults).toMatchObject([
    { requestIds: ['r'], detail: expect.stringContaining('device lost') },
  ])
})

test('closing cancels what runs and ends the loop', async () => {
  const { engine, served, runner } = setUp()
  const answer = collect(engine.generate(engineRequest({ id: 'r', maxTokens: 3000 }), NEVER))
  await engine.close()
  expect((await answer).at(-1)?.kind).toBe('cancelled')
  await served
  expect(runner.liveRowCount()).toBe(0)
})

test('when the other end is gone, every request ends with what arrived, and calls reject', async () => {
  const { engine, closePort } = setUp()
  const answer = collect(engine.generate(engineRequest({ id: 'r', maxTokens: 3000 }), NEVER))
  const waitingCall = engine.stats()
  await waitingCall
  closePort()
  const call = engine.stats()
  engine.fail(new Error('thread died'))
  await expect(call).rejects.toThrow('thread died')
  const events = await answer
  const completionTokens = events.length - 1
  expect(events.at(-1)).toMatchObject({ code: 'internal_error', usage: { completionTokens } })
  await expect(engine.stats()).rejects.toThrow('thread died')
  const later = await collect(engine.generate(engineRequest({ id: 'later' }), NEVER))
  expect(later).toMatchObject([{ code: 'internal_error', usage: { completionTokens: 0 } }])
})
