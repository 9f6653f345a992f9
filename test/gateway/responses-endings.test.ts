import OpenAI from 'openai'
import type { ResponseStreamEvent } from 'openai/resources/responses/responses'
import { beforeAll, expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'

let openai: OpenAI

const { upstream, gateway } = useScriptedGateway({
  dying: {
    script: ({ startStream, sendToken, die }) => {
      startStream()
      sendToken('It ')
      setTimeout(die, 50)
    },
  },
  failing: {
    script: ({ startStream, sendToken, sendFrame, res }) => {
      startStream()
      sendToken('It ')
      sendFrame({ error: { message: 'out of memory' } })
      res.end()
    },
  },
  broken: { script: ({ sendJson }) => sendJson(500, {}) },
  late: { script: ({ sendJson }) => void setTimeout(() => sendJson(500, {}), 700) },
  endless: {
    script: ({ startStream, sendToken, res }) => {
      startStream()
      const timer = setInterval(() => sendToken('x '), 10)
      res.on('close', () => clearInterval(timer))
    },
  },
})

beforeAll(() => {
  openai = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.apiKey, maxRetries: 0 })
})

const input = 'What is the capital of France?'
const settled = async () => (await gateway.settledUsage([upstream.exchanges.at(-1)!.requestId]))[0]

async function readEvents(body: OpenAI.Responses.ResponseCreateParamsStreaming) {
  const events: ResponseStreamEvent[] = []
  for await (const event of await openai.responses.create(body)) events.push(event)
  return events
}

test.each(['dying', 'failing'])(
  'a backend that fails in mid-stream ends it as failed, billed for what was sent (%s)',
  async (model) => {
    const events = await readEvents({ model, input, stream: true })
    expect(events.at(-1)).toMatchObject({
      type: 'response.failed',
      sequence_number: events.length - 1,
      response: { status: 'failed', error: { code: 'server_error' }, usage: null },
    })
    expect(JSON.stringify(events)).not.toContain('out of memory')
    expect(await settled()).toMatchObject({ outcome: 'upstream_failed', completion_tokens: 1 })
  },
)

test('a client that leaves ends the generation and pays for what was made', async () => {
  const stream = await openai.responses.create({ model: 'endless', input, stream: true })
  for await (const { type } of stream) if (type === 'response.output_text.delta') break
  expect(await upstream.exchanges.at(-1)!.cancelled).toBe(true)
  const record = await settled()
  expect(record).toMatchObject({ outcome: 'client_aborted' })
  expect(record!.completion_tokens).toBeGreaterThan(0)
})

test('a backend that fails before it answers costs nothing, with its status while that can be said', async () => {
  for (const stream of [true, false]) {
    const failed = openai.responses.create({ model: 'broken', input, stream })
    await expect(failed).rejects.toMatchObject({ status: 502, code: 'upstream_error' })
    expect(await settled()).toMatchObject({ outcome: 'upstream_failed', fee_micro_usd: 0 })
  }
  const events = await readEvents({ model: 'late', input, stream: true })
  expect(events.map(({ type }) => type)).toEqual([
    'response.created',
    'response.in_progress',
    'response.failed',
  ])
  expect(await settled()).toMatchObject({ outcome: 'upstream_failed', fee_micro_usd: 0 })
})
