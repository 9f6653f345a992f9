import { beforeAll, expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'

let keys: string

const { gateway } = useScriptedGateway({
  m: { script: (each) => each.sendJson(200, { id: 'x', choices: [], usage: usageOf(6, 0) }) },
})

beforeAll(() => {
  keys = `/accounts/${gateway.accountId}/keys`
})

const call = async (apiKey: string, path: string, json?: object) => {
  const headers = { authorization: `Bearer ${apiKey}` }
  return (await gateway.call(path, { headers, ...(json && { json }) })).status
}
const ask = (apiKey: string) => call(apiKey, '/v1/completions', { model: 'm', prompt: 'x' })

test('a rotated key keeps its id and books; the old secret holds for its grace and no longer', async () => {
  const first = await gateway.admin('POST', keys, { name: 'rotated' })
  expect(await ask(first.api_key)).toBe(200)
  const second = await gateway.admin('POST', `${keys}/${first.id}/rotate`, {})
  expect(second).toMatchObject({ id: first.id, previous_valid_until_ms: expect.any(Number) })
  expect([await ask(first.api_key), await ask(second.api_key)]).toEqual([200, 200])

  const third = await gateway.admin('POST', `${keys}/${first.id}/rotate`, { grace_ms: 0 })
  // No secret outlives one that came after it: whoever ends a leaked key now ends all before it.
  expect([await ask(first.api_key), await ask(second.api_key)]).toEqual([401, 401])
  expect(await ask(third.api_key)).toBe(200)
  const { data } = await gateway.admin('GET', keys)
  expect(data.filter((key: { name: string }) => key.name === 'rotated')).toMatchObject([
    { id: first.id, start: third.start },
  ])

  await gateway.admin('DELETE', `${keys}/${first.id}`)
  expect(await ask(third.api_key)).toBe(401)
  const refused = await gateway.admin('POST', `${keys}/${first.id}/rotate`, {})
  expect(refused.error.code).toBe('not_found')
})

test('what is named of a key is changed from the next request on, and nothing else', async () => {
  const first = await gateway.admin('POST', keys, { name: 'plain', budget_micro_usd: 1_000_000 })
  const path = `${keys}/${first.id}`
  expect(await ask(first.api_key)).toBe(200)
  const before = (await gateway.admin('GET', keys)).data.find(
    ({ id }: { id: string }) => id === first.id,
  )
  const renamed = await gateway.admin('PATCH', path, { name: 'renamed', tier: 'batch' })
  expect(renamed).toEqual({ ...before, name: 'renamed', tier: 'batch' })

  const steps: readonly [changes: object, back: object, refusal: number][] = [
    [{ models: ['other'] }, { models: null }, 403],
    [{ scopes: ['usage:read'] }, { scopes: null }, 403],
    [{ expires_at_ms: 1 }, { expires_at_ms: null }, 401],
    [{ budget_micro_usd: 0 }, { budget_micro_usd: 1_000_000 }, 402],
    [{ window_budgets: [{ window: 'day', limit_micro_usd: 0 }] }, { window_budgets: [] }, 402],
  ]
  for (const [changes, back, refusal] of steps) {
    await gateway.admin('PATCH', path, changes)
    expect([changes, await ask(first.api_key)]).toEqual([changes, refusal])
    await gateway.admin('PATCH', path, back)
    expect([back, await ask(first.api_key)]).toEqual([back, 200])
  }
  await gateway.admin('PATCH', path, { requests_per_minute: 1 })
  expect([await ask(first.api_key), await ask(first.api_key)]).toEqual([200, 429])
  await gateway.admin('PATCH', path, {
    requests_per_minute: null,
    model_limits: [{ model: 'm', requests_per_minute: 1 }],
  })
  expect([await ask(first.api_key), await ask(first.api_key)]).toEqual([200, 429])
  const { budget } = await gateway.admin('PATCH', path, { model_limits: [] })
  expect(budget.spent_micro_usd).toBeGreaterThan(before.budget.spent_micro_usd)

  for (const field of ['tiers', 'member_id']) {
    const refused = await gateway.admin('PATCH', path, { name: 'x', [field]: null })
    expect(refused.error).toMatchObject({ code: 'invalid_request' })
  }
  await gateway.admin('DELETE', path)
  expect((await gateway.admin('PATCH', path, { name: 'x' })).error.code).toBe('not_found')
})

test('a key does what its scopes name, and nothing else', async () => {
  const paths = { 'usage:read': '/v1/usage', 'receipts:read': '/v1/receipts/req_none' }
  for (const scope of ['inference', 'usage:read', 'receipts:read'] as const) {
    const { api_key } = await gateway.admin('POST', keys, { name: scope, scopes: [scope] })
    expect(await ask(api_key)).toBe(scope === 'inference' ? 200 : 403)
    for (const [needed, path] of Object.entries(paths)) {
      const allowed = needed === 'usage:read' ? 200 : 404
      expect(await call(api_key, path)).toBe(needed === scope ? allowed : 403)
    }
    expect(await call(api_key, '/v1/key')).toBe(200)
  }
  const wrong = await gateway.admin('POST', keys, { name: 'x', scopes: ['admin'] })
  expect(wrong.error).toMatchObject({ code: 'invalid_request', param: 'scopes[0]' })
})

test('a key says when it was last used', async () => {
  const { id, api_key } = await gateway.admin('POST', keys, { name: 'idle' })
  const find = async () =>
    (await gateway.admin('GET', keys)).data.find((key: { id: string }) => key.id === id)
  expect((await find()).last_used_at_ms).toBeNull()
  const beforeMs = Date.now()
  await ask(api_key)
  expect((await find()).last_used_at_ms).toBeGreaterThanOrEqual(beforeMs)
})
