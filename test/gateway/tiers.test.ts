import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'

const { upstream, gateway } = useScriptedGateway({
  m: {
    script: (each) => {
      if (!each.body.stream) {
        const message = { role: 'assistant', content: 'ok' }
        const choices = [{ index: 0, message, finish_reason: 'stop' }]
        return each.sendJson(200, { id: 'x', choices, usage: usageOf(6, 1) })
      }
      each.startStream()
      each.finishStream(usageOf(6, 0))
    },
  },
})

const BODIES = {
  '/v1/chat/completions': { model: 'm', messages: [{ role: 'user', content: 'hi' }] },
  '/v1/completions': { model: 'm', prompt: 'hi' },
  '/v1/embeddings': { model: 'm', input: 'hi' },
  '/v1/responses': { model: 'm', input: 'hi' },
}

/** Service tiers by the key's tier, and what serves; null: refused. */
const SERVED = {
  interactive: {
    auto: 'interactive',
    priority: 'interactive',
    default: 'standard',
    flex: 'batch',
  },
  standard: { auto: 'standard', priority: null, default: 'standard', flex: 'batch' },
  batch: { auto: 'batch', priority: null, default: null, flex: 'batch' },
} as const

test.each(Object.entries(SERVED))(
  'a key of the tier %s names none above it, and the answer says what served',
  async (tier, served) => {
    const path = `/accounts/${gateway.accountId}/keys`
    const { api_key, id } = await gateway.admin('POST', path, { name: tier, tier })
    const { data } = await gateway.admin('GET', path)
    expect(data.find((key: { id: string }) => key.id === id)).toMatchObject({ tier })
    const headers = { authorization: `Bearer ${api_key}` }
    for (const [operation, body] of Object.entries(BODIES)) {
      for (const [serviceTier, expected] of Object.entries(served)) {
        const json = { ...body, service_tier: serviceTier }
        const response = await gateway.call(operation, { headers, json })
        const answer = await response.json()
        if (expected === null) {
          expect([response.status, answer]).toMatchObject([
            403,
            { error: { code: 'tier_not_allowed', param: 'service_tier' } },
          ])
          continue
        }
        expect([operation, response.status]).toEqual([operation, 200])
        expect(response.headers.get('x-tallygate-tier')).toBe(expected)
        expect(upstream.exchanges.at(-1)!.headers['x-tallygate-tier']).toBe(expected)
        if (operation === '/v1/responses') {
          const name = { interactive: 'priority', standard: 'default', batch: 'flex' }[expected]
          expect(answer).toMatchObject({ service_tier: name })
        }
      }
    }
  },
)

test('a streamed response names its tier in its first event, and a key its tier in GET /v1/key', async () => {
  const json = { ...BODIES['/v1/responses'], stream: true, service_tier: 'flex' }
  const text = await (await gateway.call('/v1/responses', { json })).text()
  expect(text.match(/"service_tier":"flex"/g)).toHaveLength(3)
  expect(await (await gateway.call('/v1/key')).json()).toMatchObject({ tier: 'standard' })
})

test('shares of the parallel requests are set and told by the admin API', async () => {
  const path = `/accounts/${gateway.accountId}`
  expect(await gateway.admin('GET', path)).toMatchObject({
    tier_percents: { standard: 100, batch: 75 },
  })
  const changed = await gateway.admin('PATCH', path, { tier_percents: { batch: 10 } })
  expect(changed).toMatchObject({ tier_percents: { standard: 100, batch: 10 } })
  const refused = await gateway.admin('PATCH', path, { tier_percents: { batch: 0 } })
  expect(refused.error).toMatchObject({ code: 'invalid_request', param: 'tier_percents.batch' })
})
