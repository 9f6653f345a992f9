import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type Exchange, usageOf } from '../support/scripted-upstream.ts'

let arrived: (exchange: Exchange) => void

const messages = [{ role: 'user' as const, content: 'hi' }]

function answer(exchange: Exchange) {
  if (exchange.body.stream) {
    exchange.startStream()
    exchange.sendToken(exchange.requestId)
    return exchange.finishStream(usageOf(7, 2))
  }
  const message = { role: 'assistant', content: exchange.requestId }
  const choices = [{ index: 0, message, finish_reason: 'stop' }]
  exchange.sendJson(200, { id: 'x', choices, usage: usageOf(7, 2) })
}

const { upstream, gateway } = useScriptedGateway({
  plain: { script: answer },
  byHand: { script: (exchange) => arrived(exchange) },
  broken: { script: (exchange) => exchange.sendJson(500, {}) },
})

const ask = (key: string, body: object, signal?: AbortSignal) =>
  gateway.call('/v1/chat/completions', {
    json: { model: 'plain', messages, ...body },
    headers: { 'idempotency-key': key },
    ...(signal && { signal }),
  })

const askedOf = (model: string) =>
  upstream.exchanges.filter((exchange) => exchange.body.model === model)

test('the first answer is given again byte for byte, whole or streamed, and billed once', async () => {
  const before = askedOf('plain').length
  for (const [key, body] of [
    ['whole', {}],
    ['stream', { stream: true, stream_options: { include_usage: true } }],
  ] as const) {
    const first = await ask(key, body)
    const text = await first.text()
    expect(first.headers.get('idempotency-replayed')).toBeNull()
    const second = await ask(key, body)
    expect(await second.text()).toBe(text)
    expect(second.status).toBe(200)
    expect(second.headers.get('content-type')).toBe(first.headers.get('content-type'))
    expect(second.headers.get('idempotency-replayed')).toBe('true')
    const ids = [first, second].map((response) => response.headers.get('x-request-id')!)
    expect(await gateway.settledUsage(ids)).toMatchObject([{ request_id: ids[0] }])
  }
  expect(askedOf('plain').length - before).toBe(2)
})

test('another body under the same key is a conflict that no client retries', async () => {
  await (await ask('reused', {})).text()
  const conflict = await ask('reused', { temperature: 0 })
  expect([conflict.status, await conflict.json()]).toMatchObject([
    409,
    { error: { code: 'idempotency_conflict', param: 'Idempotency-Key' } },
  ])
  expect(conflict.headers.get('x-should-retry')).toBe('false')
})

test('a repeat is told to wait while the first runs, and gets its answer though its client left', async () => {
  for (const stream of [false, true]) {
    const exchangeArrives = new Promise<Exchange>((resolve) => {
      arrived = resolve
    })
    const key = `left-${stream}`
    const controller = new AbortController()
    const first = ask(key, { model: 'byHand', stream }, controller.signal)
    first.catch(() => {})
    const exchange = await exchangeArrives
    const early = await ask(key, { model: 'byHand', stream })
    expect([early.status, await early.json()]).toMatchObject([
      409,
      { error: { code: 'idempotency_in_flight' } },
    ])
    expect(Number(early.headers.get('retry-after-ms'))).toBeGreaterThan(0)
    controller.abort()
    answer(exchange)
    await expect.poll(async () => (await ask(key, { model: 'byHand', stream })).status).toBe(200)
    const again = await ask(key, { model: 'byHand', stream })
    expect(await again.text()).toContain(exchange.requestId)
    expect(await gateway.settledUsage([exchange.requestId])).toMatchObject([
      { outcome: 'completed', completion_tokens: 2 },
    ])
  }
  expect(askedOf('byHand')).toHaveLength(2)
})

test('a failure that cost nothing leaves the key free', async () => {
  for (let count = 0; count < 2; count++) {
    expect((await ask('broken', { model: 'broken' })).status).toBe(502)
  }
  expect(askedOf('broken')).toHaveLength(2)
})

test('a key that is none is refused', async () => {
  for (const key of ['', 'a b', 'x'.repeat(256)]) {
    const refused = await ask(key, {})
    expect([refused.status, await refused.json()]).toMatchObject([
      400,
      { error: { param: 'Idempotency-Key' } },
    ])
  }
})
