import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'
import { waitUntil } from '../support/stack.ts'

const price = {
  version: 1,
  promptMicroUsdPerMillion: 1_000_000,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 0,
}
const HOUR_MS = 3_600_000

// The worst case is a whole context: 100 micro-USD.
const script = {
  script: (each: { sendJson: (status: number, body: unknown) => void }) =>
    each.sendJson(200, { id: 'x', choices: [], usage: usageOf(60, 0) }),
  maxModelLength: 100,
}

const { gateway } = useScriptedGateway(
  { m: script, '=cmd()': script, '"q",': script },
  { backend: { price } },
)

interface Account {
  readonly id: string
  readonly api_key: string
}

const createAccount = (settings: object = {}): Promise<Account> =>
  gateway.admin('POST', '/accounts', { name: 'test', ...settings })

const headersOf = ({ api_key }: Account) => ({ authorization: `Bearer ${api_key}` })

const ask = (account: Account, model = 'm') =>
  gateway.call('/v1/completions', {
    json: { model, prompt: 'x', max_tokens: 1 },
    headers: headersOf(account),
  })

/** All that was asked has reached D1. */
const flushed = (account: Account) =>
  waitUntil(
    async () => {
      await read(account, '/v1/usage?limit=1')
      return gateway.admin('GET', `/accounts/${account.id}`)
    },
    (state) => state.open_reservation_count + state.outbox_count === 0,
  )

// biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
const read = async (account: Account, path: string): Promise<any> =>
  (await gateway.call(path, { headers: headersOf(account) })).json()

test('prices are published at least an hour ahead, each with a version of its own', async () => {
  const body = {
    model: 'm',
    prompt_micro_usd_per_million: 5,
    cached_micro_usd_per_million: 4,
    completion_micro_usd_per_million: 3,
  }
  const before = Date.now()
  const first = await gateway.admin('POST', '/prices', body)
  expect(first).toMatchObject({ ...body, version: 1_000_001, backend_id: null })
  expect(first.effective_at_ms).toBeGreaterThanOrEqual(before + HOUR_MS)
  const effective_at_ms = first.effective_at_ms + HOUR_MS
  const second = await gateway.admin('POST', '/prices', {
    ...body,
    backend_id: 'scripted',
    effective_at_ms,
  })
  expect(second).toMatchObject({ version: 1_000_002, backend_id: 'scripted', effective_at_ms })
  expect((await gateway.admin('GET', '/prices')).data).toEqual([second, first])
  for (const [param, wrong] of [
    ['effective_at_ms', { effective_at_ms: Date.now() + HOUR_MS - 10_000 }],
    ['backend_id', { backend_id: 'nobody' }],
    ['prompt_micro_usd_per_million', { prompt_micro_usd_per_million: -1 }],
    ['version', { version: 1 }],
  ] as const) {
    const { error } = await gateway.admin('POST', '/prices', { ...body, ...wrong })
    expect(error).toMatchObject({ code: 'invalid_request', param })
  }
  expect((await gateway.call('/admin/v1/prices')).status).toBe(401)
})

test('an account that pays in advance spends what it was granted, and is told what is left', async () => {
  const account = await createAccount({ prepaid: true })
  const refused = await ask(account)
  expect(refused.status).toBe(402)
  expect(await refused.json()).toMatchObject({
    error: {
      code: 'budget_exceeded',
      message: expect.stringContaining('The prepaid balance of 0.000000 USD does not cover'),
    },
  })
  const path = `/accounts/${account.id}/credits`
  const credit = { id: 'inv_1', amount_micro_usd: 170, reason: 'Invoice 1' }
  const granted = await gateway.admin('POST', path, credit)
  expect(granted).toMatchObject({ ...credit, left_micro_usd: 170, expires_at_ms: null })
  expect(await gateway.admin('POST', path, credit)).toEqual(granted)
  const { error } = await gateway.admin('POST', path, { ...credit, amount_micro_usd: 1 })
  expect(error).toMatchObject({ code: 'idempotency_conflict', param: 'id' })
  for (const [param, wrong] of [
    ['amount_micro_usd', { amount_micro_usd: 0 }],
    ['expires_at_ms', { id: 'x', expires_at_ms: 1 }],
    ['reason', { reason: '' }],
    ['id', { id: 'a b' }],
  ] as const) {
    const answer = await gateway.admin('POST', path, { ...credit, ...wrong })
    expect(answer.error).toMatchObject({ code: 'invalid_request', param })
  }
  expect((await ask(account)).status).toBe(200)
  expect((await ask(account)).status).toBe(200)
  expect((await ask(account)).status).toBe(402)
  expect((await read(account, '/v1/key')).account_credit).toEqual({
    prepaid: true,
    credit_balance_micro_usd: 50,
    credit_available_micro_usd: 50,
  })
  expect(await gateway.admin('GET', `/accounts/${account.id}`)).toMatchObject({
    prepaid: true,
    credit_balance_micro_usd: 50,
  })
  expect((await gateway.admin('GET', path)).data).toMatchObject([{ ...credit, left_micro_usd: 50 }])
})

test('a statement is what the records add up to, for the account alone, as JSON and CSV', async () => {
  const account = await createAccount()
  for (const model of ['m', 'm', '=cmd()']) expect((await ask(account, model)).status).toBe(200)
  await flushed(account)
  const month = new Date().toISOString().slice(0, 7)
  const statement = await read(account, `/v1/statements/${month}`)
  expect(statement).toMatchObject({
    object: 'statement',
    state: 'open',
    request_count: 3,
    prompt_tokens: 180,
    fee_micro_usd: 180,
    credited_micro_usd: 0,
    missing_request_count: 0,
    digest: null,
    lines: [
      { model: '=cmd()', adapter_digest: null, price_version: 1, fee_micro_usd: 60 },
      { model: 'm', request_count: 2, fee_micro_usd: 120 },
    ],
  })
  const path = `/accounts/${account.id}/statements`
  expect(await gateway.admin('GET', `${path}/${month}`)).toEqual(statement)
  const [listed] = (await gateway.admin('GET', path)).data
  expect(statement).toMatchObject(listed)
  expect((await read(account, '/v1/statements')).data).toEqual([listed])
  const csv = await gateway.call(`/v1/statements/${month}`, {
    headers: { ...headersOf(account), accept: 'text/csv' },
  })
  expect(csv.headers.get('x-statement-state')).toBe('open')
  expect(csv.headers.get('content-disposition')).toBe('attachment')
  expect((await csv.text()).split('\r\n')[1]).toMatch(
    new RegExp(`^${account.id},${month},key_\\w+,'=cmd\\(\\),,1,1,60,0,0,60$`),
  )
  const stranger = await createAccount()
  expect((await read(stranger, '/v1/statements')).data).toEqual([])
  for (const [wrong, code] of [
    ['2026-13', 'invalid_request'],
    ['1999-01', 'not_found'],
    ['9999-01', 'not_found'],
  ]) {
    const { error } = await read(account, `/v1/statements/${wrong}`)
    expect(error).toMatchObject({ code })
  }
})

test('pages of the CSV export joined are one file, with nothing a spreadsheet would run', async () => {
  const account = await createAccount()
  for (const model of ['=cmd()', '"q",', 'm', 'm', 'm']) await ask(account, model)
  await flushed(account)
  let text = ''
  let cursor: string | null = ''
  while (cursor !== null) {
    const query = `limit=2${cursor && `&cursor=${cursor}`}`
    const page: Response = await gateway.call(`/v1/usage?${query}`, {
      headers: { ...headersOf(account), accept: 'text/csv' },
    })
    text += await page.text()
    cursor = page.headers.get('x-next-cursor')
  }
  const [header, ...lines] = text.trimEnd().split('\r\n')
  expect(header).toMatch(/^request_id,key_id,endpoint,model,/)
  expect(lines).toHaveLength(5)
  expect(lines[4]).toContain(",'=cmd(),")
  expect(lines[3]).toContain(',"""q"",",')
})
