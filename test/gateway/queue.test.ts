import { MessageChannel } from 'node:worker_threads'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { DEFAULT_ENGINE_LIMITS } from '../../gpu-backend/engine/scheduler.ts'
import { createPortEngine } from '../../gpu-backend/port-engine.ts'
import { serveEngine } from '../../gpu-backend/serve-engine.ts'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import { startTestBackend, type TestBackend } from '../support/test-backend.ts'
import { createToyRunner, toyTokenBytes } from '../support/toy-runner.ts'

/** The real engine: one request runs, at the pace of the test, and two may wait. */
const gate = { isOpen: true, opened: Promise.withResolvers<void>() }

let backend: TestBackend
let gateway: GatewayUnderTest
const channel = new MessageChannel()

beforeAll(async () => {
  const runner = createToyRunner({ kvTokens: 4096 })
  void serveEngine(channel.port2, {
    parts: {
      runner: {
        ...runner,
        run: async (rows) => {
          if (!gate.isOpen) await gate.opened.promise
          return runner.run(rows)
        },
      },
      tokenBytes: toyTokenBytes,
      limits: { ...DEFAULT_ENGINE_LIMITS, maxRunningCount: 1, maxWaitingCount: 2, chunkTokens: 16 },
      modelDigest: 'model',
      prefixSharing: 'tenant',
      nowMs: Date.now,
    },
    slots: { loadAdapter: () => {}, unloadAdapter: () => {} },
  })
  backend = await startTestBackend({ engine: createPortEngine(channel.port1, () => {}) })
  gateway = await startGatewayUnderTest([{ id: 'one', url: backend.url }])
}, 60_000)

afterAll(async () => {
  await gateway.close()
  await backend.close()
  channel.port1.close()
})

const close = () => {
  gate.isOpen = false
  gate.opened = Promise.withResolvers()
}
const open = () => {
  gate.isOpen = true
  gate.opened.resolve()
}

async function createKey(tier: string): Promise<string> {
  const path = `/accounts/${gateway.accountId}/keys`
  return (await gateway.admin('POST', path, { name: tier, tier })).api_key
}

const ask = (apiKey: string, isStream: boolean) =>
  gateway.call('/v1/completions', {
    headers: { authorization: `Bearer ${apiKey}` },
    // Token ids of the toy; the text does not matter.
    json: { model: 'tiny', prompt: [1, 2, 3], max_tokens: 2, stream: isStream },
  })

/** Reads a stream until it has said something. */
function createReader(response: Response) {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  return async (wanted: string): Promise<string> => {
    while (!text.includes(wanted)) {
      const { done, value } = await reader.read()
      if (done) break
      text += value
    }
    return text
  }
}

test('who waits is told the place, the least urgent is shed first, and when to come again is told by the drain rate', async () => {
  const [batch, standard, interactive] = await Promise.all(
    ['batch', 'standard', 'interactive'].map(createKey),
  )
  const first = await ask(standard!, true)
  expect(first.headers.get('server-timing')).toMatch(/^auth;dur=\d+, ttft;dur=\d+$/)
  await first.text()
  close()
  const running = ask(standard!, true)
  const readRunning = createReader(await running)
  const waiting = await ask(batch!, true)
  expect(waiting.headers.get('x-tallygate-queue-position')).toBe('1')
  expect(waiting.headers.get('server-timing')).toMatch(/^auth;dur=\d+$/)
  const readBatch = createReader(waiting)
  await readBatch(': queued 1\n\n')

  const whole = ask(standard!, false)
  expect((await whole).headers.get('x-tallygate-queue-position')).toBe('1')
  await readBatch(': queued 2\n\n')

  const urgent = await ask(interactive!, true)
  expect(urgent.headers.get('x-tallygate-queue-position')).toBe('1')
  const shed = await readBatch('"code":"overloaded"')
  expect(shed).toContain('"code":"overloaded"')

  const late = await ask(batch!, true)
  expect(late.status).toBe(429)
  expect(await late.json()).toMatchObject({ error: { code: 'overloaded' } })
  const retryAfterMs = Number(late.headers.get('retry-after-ms'))
  expect(retryAfterMs).toBeGreaterThan(0)
  expect(Number(late.headers.get('retry-after'))).toBe(Math.ceil(retryAfterMs / 1_000))

  open()
  for (const read of [readRunning, createReader(urgent)]) {
    expect(await read('[DONE]')).toContain('[DONE]')
  }
  expect(await (await whole).json()).toMatchObject({ usage: { prompt_tokens: 3 } })
}, 30_000)
