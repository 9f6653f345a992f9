import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type startScriptedUpstream, usageOf } from '../support/scripted-upstream.ts'

const script: Parameters<typeof startScriptedUpstream>[0][string] = {
  script: (each) => each.sendJson(200, { id: 'x', choices: [], usage: usageOf(6, 0) }),
}

const { gateway } = useScriptedGateway({ m: script, n: script })

interface Account {
  readonly id: string
  readonly api_key: string
}

const createAccount = (settings: object = {}): Promise<Account> =>
  gateway.admin('POST', '/accounts', { name: 'limits', ...settings })

async function ask(apiKey: string, model: string) {
  const headers = { authorization: `Bearer ${apiKey}` }
  const response = await gateway.call('/v1/completions', {
    headers,
    json: { model, prompt: 'x', max_tokens: 1 },
  })
  const { error } = (await response.json()) as { error?: { code: string; message: string } }
  return { status: response.status, error, headers: response.headers }
}

test('a model has limits of its own, of a key and of its account, which 429 and GET /v1/key name', async () => {
  const account = await createAccount({ model_limits: [{ model: 'm', requests_per_minute: 3 }] })
  const key = await gateway.admin('POST', `/accounts/${account.id}/keys`, {
    name: 'narrow',
    model_limits: [{ model: 'm', requests_per_minute: 2, tokens_per_minute: 1_000_000 }],
  })
  const first = await ask(key.api_key, 'm')
  expect(first.status).toBe(200)
  expect(first.headers.get('x-ratelimit-limit-requests')).toBe('2')
  expect(first.headers.get('x-ratelimit-remaining-requests')).toBe('1')
  expect(first.headers.get('x-ratelimit-limit-tokens')).toBe('1000000')
  expect((await ask(key.api_key, 'm')).status).toBe(200)

  const byKey = await ask(key.api_key, 'm')
  expect(byKey.status).toBe(429)
  expect(byKey.error).toMatchObject({
    code: 'rate_limit_exceeded',
    message: `The key's limit for the model "m" of 2 requests a minute is reached. Try again shortly.`,
  })
  expect(Number(byKey.headers.get('retry-after-ms'))).toBeLessThanOrEqual(30_000)
  expect(byKey.headers.get('x-ratelimit-remaining-requests')).toBe('0')
  const other = await ask(key.api_key, 'n')
  expect([other.status, other.headers.get('x-ratelimit-limit-requests')]).toEqual([200, '3000'])

  expect((await ask(account.api_key, 'm')).status).toBe(200)
  expect((await ask(account.api_key, 'm')).error?.message).toContain(
    `The account's limit for the model "m" of 3 requests`,
  )
  const headers = { authorization: `Bearer ${key.api_key}` }
  expect(await (await gateway.call('/v1/key', { headers })).json()).toMatchObject({
    model_limits: [{ model: 'm', requests_per_minute: 2, requests_remaining: 0 }],
    account_model_limits: [{ model: 'm', requests_per_minute: 3, tokens_per_minute: null }],
  })
})

test('limits of a key are changed by PATCH: new ones begin full, others keep what was taken', async () => {
  const { id } = await createAccount()
  const path = `/accounts/${id}/keys`
  const key = await gateway.admin('POST', path, { name: 'first' })
  const change = (body: object) => gateway.admin('PATCH', `${path}/${key.id}`, body)
  const limited = { name: 'second', model_limits: [{ model: 'm', requests_per_minute: 2 }] }
  expect(await change(limited)).toMatchObject({ model_limits: [{ requests_remaining: 2 }] })
  expect((await ask(key.api_key, 'm')).status).toBe(200)
  expect(await change({ requests_per_minute: 2 })).toMatchObject({
    name: 'second',
    model_limits: [{ model: 'm', requests_remaining: 1 }],
  })
  expect((await ask(key.api_key, 'n')).status).toBe(200)
  expect(await change({ requests_per_minute: 3 })).toMatchObject({ name: 'second' })
  expect((await ask(key.api_key, 'n')).headers.get('x-ratelimit-limit-requests')).toBe('3')
  expect((await ask(key.api_key, 'n')).error?.message).toContain("The key's limit of 3 requests")
  const memberId = (await change({ member_id: null })).error
  expect(memberId).toMatchObject({ code: 'invalid_request' })
})

test('limits of models are changed by PATCH, and each is named once', async () => {
  const account = await createAccount()
  const path = `/accounts/${account.id}`
  const set = (...models: string[]) =>
    gateway.admin('PATCH', path, {
      model_limits: models.map((model) => ({ model, max_concurrent_requests: 4 })),
    })
  expect(await set('m')).toMatchObject({
    model_limits: [{ model: 'm', max_concurrent_requests: 4, requests_per_minute: null }],
  })
  const kept = await gateway.admin('PATCH', path, { requests_per_minute: 7 })
  expect(kept).toMatchObject({ requests_per_minute: 7, model_limits: [{ model: 'm' }] })
  expect((await set('m', 'm')).error).toMatchObject({
    code: 'invalid_request',
    param: 'model_limits',
    message: 'model_limits: must name each model once',
  })
  const wrong = { model_limits: [{ model: 'm', requests_per_minute: 0 }] }
  expect((await gateway.admin('PATCH', path, wrong)).error.param).toBe(
    'model_limits[0].requests_per_minute',
  )
  expect(await set()).toMatchObject({ model_limits: [] })
})

test('a member’s keys share budgets and limits, which 402 names, and end with the member', async () => {
  const account = await createAccount()
  const members = `/accounts/${account.id}/members`
  const member = await gateway.admin('POST', members, {
    name: 'ada',
    window_budgets: [{ window: 'day', limit_micro_usd: 0 }],
    model_limits: [{ model: 'm', requests_per_minute: 1 }],
  })
  expect(member).toMatchObject({ object: 'member', requests_per_minute: null, removed_at_ms: null })
  const createKey = (body: object) =>
    gateway.admin('POST', `/accounts/${account.id}/keys`, { name: 'test', ...body })
  const first = await createKey({ member_id: member.id })
  const second = await createKey({ member_id: member.id })
  const refused = await ask(first.api_key, 'm')
  expect([refused.status, refused.error?.message]).toMatchObject([
    402,
    expect.stringContaining(`The member's daily budget of 0.000000 USD`),
  ])
  const path = `${members}/${member.id}`
  const changed = await gateway.admin('PATCH', path, { window_budgets: [] })
  expect(changed).toMatchObject({ name: 'ada', window_budgets: [], model_limits: [{ model: 'm' }] })
  expect((await ask(first.api_key, 'm')).status).toBe(200)
  expect((await ask(second.api_key, 'm')).error?.message).toContain(
    `The member's limit for the model "m" of 1 requests a minute`,
  )

  const headers = { authorization: `Bearer ${second.api_key}` }
  const shown = await (await gateway.call('/v1/key', { headers })).json()
  const { spent_micro_usd } = (shown as { member: { budget: { spent_micro_usd: number } } }).member
    .budget
  expect(shown).toMatchObject({ member_id: member.id, member: { id: member.id, name: 'ada' } })
  expect(spent_micro_usd).toBeGreaterThan(0)
  expect(await gateway.admin('DELETE', path)).toEqual({
    ...{ id: member.id, object: 'member', deleted: true },
  })
  expect((await ask(second.api_key, 'n')).status).toBe(401)
  expect((await gateway.admin('GET', members)).data).toMatchObject([
    { id: member.id, removed_at_ms: expect.any(Number) },
  ])
  expect((await gateway.admin('PATCH', path, { name: 'x' })).error.code).toBe('not_found')
  const late = await createKey({ member_id: member.id })
  expect(late.error).toMatchObject({ code: 'invalid_request', param: 'member_id' })
  const { data } = await gateway.admin('GET', `/accounts/${account.id}/keys`)
  expect(data.map((key: { member_id: string | null }) => key.member_id)).toEqual([
    null,
    member.id,
    member.id,
  ])
})
