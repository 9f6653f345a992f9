import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'

let upstream: ScriptedUpstream
let gateway: GatewayUnderTest

const price = {
  version: 1,
  promptMicroUsdPerMillion: 1_000_000,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 0,
}

beforeAll(async () => {
  upstream = await startScriptedUpstream({
    // The worst case is a whole context: 100 micro-USD.
    m: {
      script: (each) => each.sendJson(200, { id: 'x', choices: [], usage: usageOf(60, 0) }),
      maxModelLength: 100,
    },
  })
  gateway = await startGatewayUnderTest([{ id: 'scripted', url: upstream.url, price }])
})

afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

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
  }
})
