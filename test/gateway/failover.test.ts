import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type Exchange,
  type ScriptedModel,
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'

const messages = [{ role: 'user' as const, content: 'hi' }]

function answer(exchange: Exchange) {
  if (!exchange.body.stream) {
    return exchange.sendJson(200, { id: 'x', choices: [], usage: usageOf(100, 0) })
  }
  exchange.startStream()
  exchange.sendToken('whole')
  exchange.finishStream(usageOf(100, 1))
}

function startMidStream(exchange: Exchange) {
  exchange.startStream()
  exchange.sendToken('begun')
  exchange.res.write(': \n\n', () => exchange.die())
}

/** One model a failure: the first backend fails in its way, the second serves. */
const FAILURES: Readonly<Record<string, ScriptedModel['script']>> = {
  dies: (exchange) => exchange.die(),
  500: (exchange) => exchange.sendJson(500, {}),
  503: (exchange) => exchange.sendJson(503, {}),
  busy: (exchange) => exchange.sendJson(429, {}, { 'retry-after-ms': '20' }),
}

const price = (microUsd: number) => ({
  version: 1,
  promptMicroUsdPerMillion: microUsd,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 0,
})

let failing: ScriptedUpstream
let serving: ScriptedUpstream
let draining: ScriptedUpstream
let gateway: GatewayUnderTest

beforeAll(async () => {
  const scripts = (models: Readonly<Record<string, ScriptedModel['script']>>) =>
    Object.fromEntries(Object.entries(models).map(([id, script]) => [id, { script }]))
  failing = await startScriptedUpstream(
    scripts({ ...FAILURES, cut: startMidStream, refuses: (each) => each.sendJson(400, {}) }),
  )
  serving = await startScriptedUpstream(
    scripts({
      ...Object.fromEntries(Object.keys(FAILURES).map((id) => [id, answer])),
      cut: startMidStream,
      refuses: (each) => each.sendJson(400, {}),
    }),
  )
  draining = await startScriptedUpstream(
    scripts({ ...Object.fromEntries(Object.keys(FAILURES).map((id) => [id, answer])) }),
  )
  gateway = await startGatewayUnderTest([
    { id: 'failing', url: failing.url, price: price(1_000_000) },
    { id: 'serving', url: serving.url, price: price(3_000_000) },
    { id: 'draining', url: draining.url, draining: true },
  ])
})

afterAll(async () => {
  await gateway.close()
  await Promise.all([failing.close(), serving.close(), draining.close()])
})

const ask = (model: string, stream: boolean) =>
  gateway.call('/v1/chat/completions', { json: { model, messages, stream } })

test('what fails before its first byte is served by another backend, once, at its price', async () => {
  const ids: string[] = []
  for (const model of Object.keys(FAILURES)) {
    for (const stream of [false, true]) {
      const response = await ask(model, stream)
      expect([model, response.status]).toEqual([model, 200])
      await response.text()
      ids.push(response.headers.get('x-request-id')!)
    }
  }
  // 100 prompt tokens at the price of the backend that served.
  const lines = await gateway.settledUsage(ids)
  expect(lines.map((line) => [line.outcome, line.fee_micro_usd])).toEqual(
    ids.map(() => ['completed', 300]),
  )
  expect(draining.exchanges).toHaveLength(0)
})

test('a backend that keeps failing is left alone', async () => {
  const before = failing.exchanges.length
  for (let count = 0; count < 40; count++) await (await ask('500', false)).text()
  // Three failures open the breaker; a probe may follow while the test runs.
  expect(failing.exchanges.length - before).toBeLessThan(10)
})

test('an answer that has begun is never begun again elsewhere', async () => {
  const exchanges = () =>
    [...failing.exchanges, ...serving.exchanges].filter((each) => each.body.model === 'cut')
  const response = await ask('cut', true)
  const text = await response.text()
  expect(text).toContain('begun')
  expect(text).toContain('"error"')
  expect(text).not.toContain('[DONE]')
  expect(exchanges()).toHaveLength(1)
})

test('a request that is at fault itself is not tried elsewhere', async () => {
  expect((await ask('refuses', false)).status).toBe(400)
  const exchanges = [...failing.exchanges, ...serving.exchanges]
  expect(exchanges.filter((each) => each.body.model === 'refuses')).toHaveLength(1)
})

test('when nobody serves, the answer is 503 and says when to come back', async () => {
  const down = await startScriptedUpstream({ m: { script: (each) => each.sendJson(500, {}) } })
  const alone = await startGatewayUnderTest([{ id: 'down', url: down.url }])
  const call = () =>
    alone.call('/v1/chat/completions', { json: { model: 'm', messages, stream: false } })
  let failureCount = 0
  let refused = await call()
  for (; refused.status === 502; refused = await call()) failureCount += 1
  expect([refused.status, await refused.json()]).toMatchObject([
    503,
    { error: { code: 'no_backend' } },
  ])
  expect(Number(refused.headers.get('retry-after-ms'))).toBeGreaterThan(0)
  expect(failureCount).toBeGreaterThanOrEqual(3)
  expect(down.exchanges).toHaveLength(failureCount)
  await alone.close()
  await down.close()
})
