import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'

const CANARY = 'canary-prompt-2b6e'
const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const PARENT = '00f067aa0ba902b7'
const messages = [{ role: 'user', content: CANARY }]

/** What the OTLP receiver was sent: path, authorization, body. */
const received: { path: string; key: string; text: string }[] = []
let receiver: Server
let isReceiving = true
let upstream: ScriptedUpstream
let gateway: GatewayUnderTest

beforeAll(async () => {
  receiver = createServer(async (req, res) => {
    let text = ''
    for await (const part of req.setEncoding('utf8')) text += part
    if (isReceiving) received.push({ path: req.url ?? '', key: String(req.headers['x-key']), text })
    res.writeHead(isReceiving ? 200 : 503).end('{}')
  }).listen(0, '127.0.0.1')
  await once(receiver, 'listening')
  upstream = await startScriptedUpstream({
    base: {
      script: (exchange) => {
        if (exchange.body.stream !== true) {
          exchange.sendJson(200, { choices: [], usage: usageOf(7, 2) })
          return
        }
        exchange.startStream()
        exchange.sendToken('Hello')
        exchange.finishStream(usageOf(7, 2))
      },
    },
    broken: { script: (exchange) => exchange.sendJson(500, {}) },
  })
  const { port } = receiver.address() as AddressInfo // listening on TCP
  gateway = await startGatewayUnderTest([{ id: 'scripted', url: upstream.url }], {
    OTLP_ENDPOINT: `http://127.0.0.1:${port}/`,
    OTLP_HEADERS: '{"x-key": "receiver-key"}',
  })
})
afterAll(async () => {
  await gateway?.close()
  await upstream?.close()
  receiver?.closeAllConnections()
  receiver?.close()
})

/** But those of the operator's own calls. */
function listSpans() {
  return received
    .filter(({ path }) => path === '/v1/traces')
    .flatMap(({ text }) => JSON.parse(text).resourceSpans[0].scopeSpans[0].spans)
    .filter(({ name }) => !name.includes('/admin/'))
}

/** Sums over all exports, which are deltas. */
function sumMetric(name: string): number {
  const points = received
    .filter(({ path }) => path === '/v1/metrics')
    .flatMap(({ text }) => JSON.parse(text).resourceMetrics[0].scopeMetrics[0].metrics)
    .filter((metric) => metric.name === name)
    .flatMap((metric) => (metric.histogram ?? metric.sum).dataPoints)
  return points.reduce((sum, point) => sum + (point.sum ?? point.asDouble), 0)
}

const ask = (json: object, headers = {}) =>
  gateway.call('/v1/chat/completions', { json: { model: 'base', messages, ...json }, headers })

test('a trace goes on through the gateway, and its span says what was used', async () => {
  const answer = await ask({ stream: true }, { traceparent: `00-${TRACE}-${PARENT}-01` })
  await answer.text()
  await expect.poll(() => listSpans().length, { timeout: 5_000 }).toBe(1)
  const [span] = listSpans()
  expect(span).toMatchObject({ traceId: TRACE, parentSpanId: PARENT, name: 'chat base', kind: 2 })
  const { traceparent } = upstream.exchanges[0]!.headers
  expect(traceparent).toBe(`00-${TRACE}-${span.spanId}-01`)
  const attributes = Object.fromEntries(
    span.attributes.map(({ key, value }: { key: string; value: object }) => [
      key,
      Object.values(value)[0],
    ]),
  )
  expect(attributes).toMatchObject({
    'gen_ai.operation.name': 'chat',
    'gen_ai.request.model': 'base',
    'gen_ai.response.id': answer.headers.get('x-request-id'),
    'gen_ai.usage.input_tokens': '7',
    'gen_ai.usage.output_tokens': '2',
    'tallygate.outcome': 'completed',
    'tallygate.time_to_first_token_ms': expect.any(String),
  })
  expect(received.every(({ key }) => key === 'receiver-key')).toBe(true)
})

test('metrics are told once, failures and refusals among them, and kept while nobody listens', async () => {
  isReceiving = false
  for (let count = 0; count < 5; count++) expect((await ask({})).status).toBe(200)
  expect((await ask({ model: 'broken' })).status).toBe(502)
  expect((await ask({ model: 'none' })).status).toBe(404)
  await expect
    .poll(() => gateway.logLines.some((line) => line.includes('telemetry_failed')), {
      timeout: 5_000,
    })
    .toBe(true)
  isReceiving = true
  expect((await ask({})).status).toBe(200)
  await expect.poll(() => listSpans().length, { timeout: 5_000 }).toBe(9)
  await expect.poll(() => sumMetric('gen_ai.client.token.usage')).toBe(7 * 9)
  const failed = listSpans().filter((span) => span.status?.code === 2)
  expect(failed.map(({ name }) => name)).toEqual(['chat broken', 'POST /v1/chat/completions'])
})

test('the same counts are there for Prometheus, for the operator alone', async () => {
  expect((await gateway.call('/metrics')).status).toBe(401)
  const headers = { authorization: `Bearer ${gateway.adminKey}` }
  const text = await (await gateway.call('/metrics', { headers })).text()
  expect(text).toContain('tallygate_requests_total{route="/v1/chat/completions",status="200"} 7\n')
  expect(text).toMatch(/gen_ai_server_time_to_first_token_seconds_count\{[^}]*\} 1\n/)
  expect(text).toMatch(/gen_ai_client_token_usage_sum\{[^}]*input"\} 49\n/)
})

test('neither prompts nor keys are in what is told', async () => {
  const headers = { authorization: `Bearer ${gateway.adminKey}` }
  const metrics = await (await gateway.call('/metrics', { headers })).text()
  const all = `${received.map(({ text }) => text).join()}${metrics}${gateway.logLines.join()}`
  for (const secret of [CANARY, gateway.apiKey, gateway.adminKey, 'receiver-key', 'Hello']) {
    expect(all).not.toContain(secret)
  }
})
