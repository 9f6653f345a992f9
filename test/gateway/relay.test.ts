import OpenAI from 'openai'
import { beforeAll, expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type Exchange, usageOf } from '../support/scripted-upstream.ts'

const OWN_DIGEST = `0x${'ab'.repeat(32)}`

let openai: OpenAI

/** What each test waits for: the exchange of its own model. */
const arrivals = new Map<string, (exchange: Exchange) => void>()

function arrivalAt(model: string): Promise<Exchange> {
  return new Promise((resolve) => arrivals.set(model, resolve))
}

const hand = (exchange: Exchange) => arrivals.get(exchange.body.model)?.(exchange)

const { upstream, gateway } = useScriptedGateway(
  {
    plain: {
      script: (exchange) => {
        if (!exchange.body.stream) {
          return exchange.sendJson(200, {
            id: `chatcmpl-${exchange.requestId.slice(4)}`,
            object: 'chat.completion',
            created: 1,
            model: 'plain',
            choices: [
              { index: 0, message: { role: 'assistant', content: 'Hi.' }, finish_reason: 'stop' },
            ],
            usage: usageOf(7, 2),
          })
        }
        exchange.startStream()
        for (const text of ['Hel', 'lo', '.']) exchange.sendToken(text)
        exchange.finishStream(usageOf(7, 4))
      },
    },
    byHand: { script: hand },
    byHandOwn: { script: hand, digest: OWN_DIGEST, maxModelLength: 512 },
  },
  { backend: { token: 'upstream-token' } },
)

beforeAll(() => {
  openai = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.apiKey, maxRetries: 0 })
})

const CANARY = 'canary-prompt-93b1'
const messages = [{ role: 'user' as const, content: CANARY }]

test('the official client gets a plain answer, settled before it arrives', async () => {
  const { data, response } = await openai.chat.completions
    .create({ model: 'plain', messages })
    .withResponse()
  expect(data.choices[0]?.message.content).toBe('Hi.')
  const requestId = response.headers.get('x-request-id')!
  expect(data.id).toBe(`chatcmpl-${requestId.slice(4)}`)
  expect(response.headers.get('x-ratelimit-remaining-requests')).toBe('2999')
  const [line] = await gateway.settledUsage([requestId])
  expect(line).toMatchObject({ outcome: 'completed', prompt_tokens: 7, completion_tokens: 2 })
})

test('the official client gets a stream; the usage chunk only if it asks', async () => {
  for (const include_usage of [false, true]) {
    const { data: stream, response } = await openai.chat.completions
      .create({ model: 'plain', messages, stream: true, stream_options: { include_usage } })
      .withResponse()
    const chunks = []
    for await (const chunk of stream) chunks.push(chunk)
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')).toBe('Hello.')
    const usages = chunks.flatMap((chunk) => chunk.usage ?? [])
    expect(usages).toEqual(include_usage ? [usageOf(7, 4)] : [])
    const [line] = await gateway.settledUsage([response.headers.get('x-request-id')!])
    expect(line).toMatchObject({ outcome: 'completed', completion_tokens: 4 })
  }
  const { body, headers } = upstream.exchanges.at(-2)!
  expect(body.stream_options).toEqual({ include_usage: true })
  expect(headers.authorization).toBe('Bearer upstream-token')
  expect(headers).not.toHaveProperty('cf-worker') // nothing of Miniflare's stands between
  expect(headers['x-tallygate-tenant']).toBe(gateway.accountId)
})

test('a stream ends with [DONE] and no usage frame when none was asked for', async () => {
  const response = await gateway.call('/v1/completions', {
    json: { model: 'plain', prompt: 'x', stream: true },
  })
  const text = await response.text()
  expect(text.endsWith('data: [DONE]\n\n')).toBe(true)
  expect(text).not.toContain('usage')
})

test('a record of a whole stream is there when its last bytes are', async () => {
  const response = await gateway.call('/v1/chat/completions', {
    json: { model: 'plain', messages, stream: true },
  })
  await response.text()
  const account = await gateway.admin('GET', `/accounts/${gateway.accountId}`)
  expect(account.open_reservation_count).toBe(0)
  expect(await gateway.settledUsage([response.headers.get('x-request-id')!])).toHaveLength(1)
})

test('sixteen streams at once settle once each', async () => {
  const responses = await Promise.all(
    Array.from({ length: 16 }, () =>
      gateway.call('/v1/chat/completions', { json: { model: 'plain', messages, stream: true } }),
    ),
  )
  for (const text of await Promise.all(responses.map((response) => response.text()))) {
    expect(text).toContain('[DONE]')
  }
  const ids = responses.map((response) => response.headers.get('x-request-id')!)
  const lines = await gateway.settledUsage(ids)
  expect(lines.map((line) => line.request_id).sort()).toEqual(ids.sort())
})

/** Starts a call to a model whose answer the test gives by hand. */
function callByHand(model: 'byHand' | 'byHandOwn', body: object = {}) {
  const arrival = arrivalAt(model)
  const controller = new AbortController()
  const response = gateway.call('/v1/chat/completions', {
    json: { model, messages, ...body },
    signal: controller.signal,
  })
  response.catch(() => {}) // aborted calls reject
  return { arrival, response, leave: () => controller.abort() }
}

/** Reads a stream until `text` was seen. */
async function readUntil(response: Response, text: string) {
  const reader = response.body!.getReader()
  const decoder = new TextDecoder()
  let seen = ''
  while (!seen.includes(text)) {
    const { done, value } = await reader.read()
    if (done) throw new Error(`The stream ended before ${text}: ${seen}`)
    seen += decoder.decode(value, { stream: true })
  }
  return seen
}

test('a client that leaves in mid-stream cancels upstream and is billed by the frames', async () => {
  const { arrival, response, leave } = callByHand('byHand', { stream: true })
  const exchange = await arrival
  exchange.startStream()
  exchange.sendToken('one ')
  exchange.sendToken('two')
  await readUntil(await response, 'two')
  leave()
  expect(await exchange.cancelled).toBe(true)
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([{ outcome: 'client_aborted', completion_tokens: 2 }])
})

test('a client that leaves before the first byte of a stream is noticed', async () => {
  const { arrival, leave } = callByHand('byHand', { stream: true })
  const exchange = await arrival
  leave()
  expect(await exchange.cancelled).toBe(true)
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([{ outcome: 'client_aborted', fee_micro_usd: 0 }])
})

test('a client that leaves a call that is not streamed is noticed', async () => {
  const { arrival, leave } = callByHand('byHand')
  const exchange = await arrival
  leave()
  expect(await exchange.cancelled).toBe(true)
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([{ outcome: 'client_aborted', fee_micro_usd: 0 }])
})

const provenance = {
  model_digest: OWN_DIGEST,
  adapter_digest: `0x${'0'.repeat(64)}`,
  adapter_owner: null,
  attribution_digest: `0x${'0'.repeat(64)}`,
  contributors: [{ contributor: 'ada', payee: `0x${'4'.repeat(40)}`, weight_ppm: 1_000_000 }],
  spans: [],
  prompt_hash: `0x${'5'.repeat(64)}`,
  output_hash: `0x${'6'.repeat(64)}`,
}

test('a client that leaves is billed by the report of our own backend once it has ended', async () => {
  const { arrival, response, leave } = callByHand('byHandOwn', { stream: true })
  const exchange = await arrival
  const report = { request_id: exchange.requestId, usage: usageOf(11, 5), tallygate: null }
  upstream.reports.set(exchange.requestId, { ...report, state: 'running' })
  exchange.startStream()
  exchange.sendToken('one')
  await readUntil(await response, 'one')
  leave()
  expect(await exchange.cancelled).toBe(true)
  upstream.reports.set(exchange.requestId, { ...report, state: 'cancelled', tallygate: provenance })
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([
    { outcome: 'client_aborted', prompt_tokens: 11, completion_tokens: 5 },
  ])
})

test('provenance is never sent, unless attribution was asked for', async () => {
  for (const [attribution, stream] of [
    [false, true],
    [true, true],
    [false, false],
    [true, false],
  ]) {
    const { arrival, response } = callByHand('byHandOwn', { stream, tallygate: { attribution } })
    const exchange = await arrival
    if (stream) {
      exchange.startStream()
      exchange.sendToken('one')
      exchange.finishStream(usageOf(3, 2), provenance)
    } else {
      const choices = [{ index: 0, message: { content: 'one' }, finish_reason: 'stop' }]
      exchange.sendJson(200, { choices, usage: usageOf(3, 2), tallygate: provenance })
    }
    const text = await (await response).text()
    expect(text.includes('"attribution"')).toBe(attribution)
    expect(text.includes('"ada"')).toBe(attribution)
    expect(text).not.toContain('prompt_hash')
  }
})

test('an upstream that dies in mid-stream ends in an error event and no [DONE]', async () => {
  const { arrival, response } = callByHand('byHand', { stream: true })
  const exchange = await arrival
  exchange.startStream()
  exchange.sendToken('one')
  const relayed = await response
  const clone = relayed.clone()
  await readUntil(relayed, 'one')
  exchange.die()
  const text = await clone.text()
  const last = text.trim().split('\n\n').at(-1)!
  expect(JSON.parse(last.slice('data: '.length))).toMatchObject({
    error: { code: 'upstream_error', type: 'server_error', param: null },
  })
  expect(text).not.toContain('[DONE]')
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([{ outcome: 'upstream_failed', completion_tokens: 1 }])
})

test('an upstream that fails before the first token costs nothing', async () => {
  const { arrival, response } = callByHand('byHand', { stream: true })
  const exchange = await arrival
  exchange.die()
  expect((await response).status).toBe(503)
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([{ outcome: 'upstream_failed', fee_micro_usd: 0 }])
})

test('an answer that comes late is valid JSON after blanks', async () => {
  const { arrival, response } = callByHand('byHand')
  const exchange = await arrival
  const relayed = await response // the status is sent while the upstream is still silent
  expect(relayed.status).toBe(200)
  const late = relayed.clone()
  await readUntil(relayed, ' ')
  exchange.sendJson(200, { id: 'late', choices: [], usage: usageOf(1, 0) })
  expect(JSON.parse(await late.text()).id).toBe('late')
})

test('a late failure breaks the connection off, so that no client takes it for an answer', async () => {
  const { arrival, response } = callByHand('byHand')
  const exchange = await arrival
  const relayed = await response
  exchange.die()
  await expect(relayed.text()).rejects.toThrow()
  const lines = await gateway.settledUsage([exchange.requestId])
  expect(lines).toMatchObject([{ outcome: 'upstream_failed', fee_micro_usd: 0 }])
})

test('a stream without usage is billed by its frames, and shows what is billed', async () => {
  const { arrival, response } = callByHand('byHand', {
    stream: true,
    stream_options: { include_usage: true },
  })
  const exchange = await arrival
  exchange.startStream()
  for (const text of ['a', 'b', 'c']) exchange.sendToken(text)
  exchange.finishStream()
  const text = await (await response).text()
  const [line] = await gateway.settledUsage([exchange.requestId])
  expect(line).toMatchObject({ outcome: 'completed', completion_tokens: 3 })
  const usageFrame = text.trim().split('\n\n').at(-2)!
  expect(JSON.parse(usageFrame.slice('data: '.length))).toMatchObject({
    choices: [],
    usage: { prompt_tokens: line!.prompt_tokens, completion_tokens: 3 },
  })
})

test('a malformed frame passes as it came, and the stream goes on', async () => {
  const { arrival, response } = callByHand('byHand', { stream: true })
  const exchange = await arrival
  exchange.startStream()
  exchange.sendFrame('{"broken":')
  exchange.sendToken('on')
  exchange.finishStream(usageOf(3, 1))
  const text = await (await response).text()
  expect(text).toContain('data: {"broken":\n\n')
  expect(text).toContain('[DONE]')
  expect(await gateway.settledUsage([exchange.requestId])).toHaveLength(1)
})

test('upstream refusals of the request are passed on; its own troubles are not', async () => {
  const refusal = {
    error: { message: 'Too hot.', param: 'temperature', code: 'unsupported_parameter' },
  }
  const cases = [
    [400, refusal, {}, 400, { ...refusal.error, type: 'invalid_request_error' }],
    [
      400,
      { error: { message: 'No.', code: 17 } },
      {},
      400,
      { message: 'No.', code: 'invalid_request' },
    ],
    [401, { error: { message: 'bad upstream-token' } }, {}, 502, { code: 'upstream_error' }],
    [429, {}, { 'retry-after': '3' }, 429, { code: 'overloaded' }],
    [500, { error: { message: 'stack trace' } }, {}, 502, { code: 'upstream_error' }],
    [503, {}, {}, 503, { code: 'no_backend' }],
  ] as const
  for (const [status, body, headers, expectedStatus, error] of cases) {
    const { arrival, response } = callByHand('byHand')
    const exchange = await arrival
    exchange.sendJson(status, body, headers)
    const refused = await response
    expect(refused.status).toBe(expectedStatus)
    const text = await refused.text()
    expect(JSON.parse(text).error).toMatchObject(error)
    expect(text).not.toMatch(/upstream-token|stack trace/)
    if (status === 429) expect(refused.headers.get('retry-after-ms')).toBe('3000')
    const lines = await gateway.settledUsage([exchange.requestId])
    expect(lines).toMatchObject([{ outcome: 'upstream_failed', fee_micro_usd: 0 }])
  }
})

test('no log line of all this holds a prompt, an answer or a key', () => {
  const log = gateway.logLines.join('\n')
  expect(log).toContain('"event":"relayed"')
  for (const secret of [CANARY, gateway.apiKey, gateway.adminKey, 'upstream-token', 'Hello']) {
    expect(log).not.toContain(secret)
  }
})
