import { afterAll, beforeAll, expect, test } from 'vitest'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import {
  type ScriptedUpstream,
  startScriptedUpstream,
  usageOf,
} from '../support/scripted-upstream.ts'

let upstream: ScriptedUpstream
let gateway: GatewayUnderTest

beforeAll(async () => {
  upstream = await startScriptedUpstream({
    m: {
      script: (each) => {
        const message = { role: 'assistant', content: each.requestId }
        const choices = [{ index: 0, message, finish_reason: 'stop' }]
        each.sendJson(200, { id: 'x', choices, usage: usageOf(6, 1) })
      },
    },
  })
  gateway = await startGatewayUnderTest([{ id: 'scripted', url: upstream.url }])
})

afterAll(async () => {
  await gateway.close()
  await upstream.close()
})

const BODY = { model: 'm', messages: [{ role: 'user', content: 'hi' }], max_tokens: 5 }

interface Account {
  readonly id: string
  readonly key_id: string
  readonly api_key: string
}

const create = (settings: object): Promise<Account> =>
  gateway.admin('POST', '/accounts', { name: 'sharded', ...settings })

function ask({ api_key }: Account, headers: Record<string, string> = {}): Promise<Response> {
  return gateway.call('/v1/chat/completions', {
    headers: { authorization: `Bearer ${api_key}`, ...headers },
    json: BODY,
  })
}

test('an account with shards is one account to whoever asks: usage, statement, receipts, keys', async () => {
  const account = await create({ shards: 4 })
  for (let count = 0; count < 12; count++) expect((await ask(account)).status).toBe(200)
  const headers = { authorization: `Bearer ${account.api_key}` }
  const usage = await (await gateway.call('/v1/usage?limit=100', { headers })).json()
  const records = (usage as { data: { fee_micro_usd: number; completed_at_ms: number }[] }).data
  expect(records).toHaveLength(12)
  const billed = records.reduce((sum, record) => sum + record.fee_micro_usd, 0)
  const shown = await gateway.admin('GET', `/accounts/${account.id}`)
  expect(shown).toMatchObject({ shards: 4, budget: { spent_micro_usd: billed } })
  const month = new Date(records[0]?.completed_at_ms ?? 0).toISOString().slice(0, 7)
  const statement = await gateway.call(`/v1/statements/${month}`, { headers })
  expect(await statement.json()).toMatchObject({ request_count: 12, missing_request_count: 0 })
})

test('an Idempotency-Key is honoured, though the number of shards changes', async () => {
  const account = await create({ shards: 4 })
  const headers = { 'Idempotency-Key': 'once' }
  const answers: string[] = []
  for (const shards of [4, 2, 1, 3]) {
    await gateway.admin('PATCH', `/accounts/${account.id}`, { shards })
    answers.push(await (await ask(account, headers)).text())
  }
  expect(new Set(answers).size).toBe(1)
})

test('fewer shards serve on, and a revoked key is refused by all from the answer on', async () => {
  const account = await create({ shards: 8 })
  for (const shards of [8, 2, 1, 8]) {
    await gateway.admin('PATCH', `/accounts/${account.id}`, { shards })
    for (let count = 0; count < 10; count++) expect((await ask(account)).status).toBe(200)
  }
  await gateway.admin('DELETE', `/accounts/${account.id}/keys/${account.key_id}`)
  for (let count = 0; count < 10; count++) expect((await ask(account)).status).toBe(401)
})

test('what cannot be exact with shards is refused, and says why', async () => {
  const refusal = async (method: string, path: string, json: object) =>
    (await gateway.admin(method, path, json)).error
  const settings = { name: 'x', shards: 4 }
  const prepaid = await refusal('POST', '/accounts', { ...settings, prepaid: true })
  expect(prepaid.message).toBe('shards: cannot be 4, as the account has credits or is prepaid')
  const limits = [{ model: 'm', requests_per_minute: 5 }]
  expect((await refusal('POST', '/accounts', { ...settings, model_limits: limits })).param).toBe(
    'shards',
  )
  expect((await refusal('POST', '/accounts', { ...settings, shards: 17 })).param).toBe('shards')
  const { id, key_id } = await create({ shards: 2 })
  const limited = { requests_per_minute: 5 }
  const named = { name: 'x', ...limited }
  for (const [method, path, json] of [
    ['POST', 'keys', named],
    ['PATCH', `keys/${key_id}`, limited],
    ['POST', 'members', named],
  ] as const)
    expect((await refusal(method, `/accounts/${id}/${path}`, json)).param).toBe(
      'requests_per_minute',
    )
  const credit = { id: 'c1', amount_micro_usd: 5, reason: 'x', expires_at_ms: null }
  expect((await refusal('POST', `/accounts/${id}/credits`, credit)).message).toMatch('2 shards')
  const { id: plain } = await create({})
  await gateway.admin('POST', `/accounts/${plain}/keys`, named)
  expect((await refusal('PATCH', `/accounts/${plain}`, { shards: 2 })).message).toMatch(
    'has requests_per_minute',
  )
})
