import { createHmac } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'

const price = {
  version: 1,
  promptMicroUsdPerMillion: 1_000_000,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 0,
}

const { gateway } = useScriptedGateway(
  {
    // The worst case is a whole context: 100 micro-USD.
    m: {
      script: (each) => each.sendJson(200, { id: 'x', choices: [], usage: usageOf(60, 0) }),
      maxModelLength: 100,
    },
  },
  { backend: { price }, vars: { WEBHOOK_LOOPBACK: 'true' } },
)

const createKey = (settings: object) =>
  gateway.admin('POST', `/accounts/${gateway.accountId}/keys`, { name: 'test', ...settings })

test('a used-up window is told with its reset, and shown to the key', async () => {
  const { api_key } = await createKey({
    window_budgets: [
      { window: 'day', limit_micro_usd: 110 },
      { window: 'rolling', limit_micro_usd: 500, duration_ms: 60_000 },
    ],
  })
  const headers = { authorization: `Bearer ${api_key}` }
  const ask = () =>
    gateway.call('/v1/completions', { json: { model: 'm', prompt: 'x', max_tokens: 1 }, headers })
  expect((await ask()).status).toBe(200)
  const refused = await ask()
  expect(refused.status).toBe(402)
  expect(await refused.json()).toMatchObject({
    error: {
      code: 'budget_exceeded',
      message: expect.stringMatching(
        /^The key's daily budget of 0\.000110 USD .* It resets at \d{4}-\d\d-\d\dT00:00:00\.000Z\.$/,
      ),
    },
  })
  // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
  const shown = (await (await gateway.call('/v1/key', { headers })).json()) as any
  expect(shown.window_budgets).toMatchObject([
    { window: 'day', spent_micro_usd: 60, reserved_micro_usd: 0, remaining_micro_usd: 50 },
    { window: 'rolling', duration_ms: 60_000, remaining_micro_usd: 440, resets_at_ms: null },
  ])
  expect(shown.window_budgets[0].resets_at_ms % 86_400_000).toBe(0)
})

test('an account’s windows are set and changed by its operator; a wrong one is named', async () => {
  const day = { window: 'day', limit_micro_usd: 5 }
  const account = await gateway.admin('POST', '/accounts', { name: 'x', window_budgets: [day] })
  expect(account.window_budgets).toMatchObject([day])
  const path = `/accounts/${account.id}`
  expect((await gateway.admin('PATCH', path, { requests_per_minute: 5 })).window_budgets).toEqual(
    account.window_budgets,
  )
  expect((await gateway.admin('PATCH', path, { window_budgets: [] })).window_budgets).toEqual([])
  for (const wrong of [
    [day, day],
    [{ ...day, window: 'year' }],
    [{ ...day, duration_ms: 5_000 }],
    [{ ...day, window: 'rolling' }],
    [{ ...day, limit_micro_usd: -1 }],
  ]) {
    const { error } = await gateway.admin('PATCH', path, { window_budgets: wrong })
    expect(error).toMatchObject({ code: 'invalid_request' })
    expect(error.param).toMatch(/^window_budgets/)
    expect(error.message).not.toMatch(/durationMs|limitMicroUsd/)
  }
})

interface Delivery {
  readonly signature: string
  readonly text: string
}

/** A server that refuses the first delivery. */
async function startReceiver() {
  const deliveries: Delivery[] = []
  const server = createServer(async (req, res) => {
    let text = ''
    for await (const chunk of req.setEncoding('utf8')) text += chunk
    deliveries.push({ signature: String(req.headers['tallygate-signature']), text })
    res.writeHead(deliveries.length === 1 ? 500 : 200).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo // listening on TCP
  return { url: `http://127.0.0.1:${port}/hook`, deliveries, close: () => server.close() }
}

test('an operator is told of each share of a budget once it is reached, signed', async () => {
  const receiver = await startReceiver()
  const account = await gateway.admin('POST', '/accounts', {
    name: 'x',
    budget_micro_usd: 1_000,
    alerts: { url: receiver.url, percents: [5, 10, 99] },
  })
  const headers = { authorization: `Bearer ${account.api_key}` }
  const json = { model: 'm', prompt: 'x', max_tokens: 1 }
  // 60 and 120 of 1,000 micro-USD.
  for (let count = 0; count < 2; count++) await gateway.call('/v1/completions', { json, headers })
  await expect.poll(() => receiver.deliveries.length, { timeout: 10_000 }).toBe(2)
  const told = receiver.deliveries.map(({ text }) => JSON.parse(text))
  expect(told.map((each) => each.percent).sort()).toEqual([10, 5])
  expect(told[0]).toMatchObject({
    type: 'budget.threshold_reached',
    account_id: account.id,
    scope: 'account',
    window: 'total',
    limit_micro_usd: 1_000,
  })
  for (const { signature, text } of receiver.deliveries) {
    const [, seconds, mac] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(signature)!
    const hmac = createHmac('sha256', account.alerts.secret).update(`${seconds}.${text}`)
    expect(hmac.digest('hex')).toBe(mac)
  }
  await expect
    .poll(async () => {
      const { data } = await gateway.admin('GET', `/accounts/${account.id}/alerts`)
      return data.map((alert: Record<string, unknown>) => [
        alert.attempt_count,
        alert.delivered_at_ms !== null,
        alert.next_attempt_at_ms !== null,
      ])
    })
    .toEqual(
      expect.arrayContaining([
        [1, true, false],
        [1, false, true],
      ]),
    )
  receiver.close()
})
