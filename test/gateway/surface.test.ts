import OpenAI from 'openai'
import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { usageOf } from '../support/scripted-upstream.ts'

const CANARY = 'canary-prompt-5d17'
const messages = [{ role: 'user' as const, content: CANARY }]

const answer = {
  id: 'x',
  choices: [{ index: 0, message: { role: 'assistant', content: 'ok' }, finish_reason: 'stop' }],
  usage: usageOf(4, 1),
}
const model = {
  script: (exchange: { sendJson: (status: number, body: unknown) => void }) =>
    exchange.sendJson(200, answer),
  maxModelLength: 100,
}

const { upstream, gateway } = useScriptedGateway(
  {
    base: { ...model, digest: `0x${'cd'.repeat(32)}` },
    'org/base:adapter': model,
    silent: { script: () => {} },
  },
  { vars: { MAX_BODY_BYTES: '100000', UPSTREAM_SILENCE_MS: '300' } },
)

const chat = (body: string | Uint8Array, headers: Record<string, string> = {}) =>
  gateway.call('/v1/chat/completions', { method: 'POST', body, headers })

const good = { model: 'base', messages }

test.each<[object, string]>([
  [{ messages: [...messages, ...messages, { role: 'user', content: 5 }] }, 'messages[2].content'],
  [{ stream_options: { include_usage: 1 } }, 'stream_options.include_usage'],
  [{ tools: [{}] }, 'tools[0].type'],
  [{ temperature: 2.1 }, 'temperature'],
])('the field at fault is named, however deep it stands', async (fields, param) => {
  const response = await chat(JSON.stringify({ ...good, ...fields }))
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ error: { code: 'invalid_request', param } })
})

test('bad input gets a 4xx that says what is wrong, never a 500', async () => {
  const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth)
  const table: readonly [
    body: string | Uint8Array,
    status: number,
    code: string,
    param: string | null,
  ][] = [
    ['', 400, 'invalid_json', null],
    ['{"a', 400, 'invalid_json', null],
    [new Uint8Array([0x22, 0xff, 0x22]), 400, 'invalid_json', null],
    ['[]', 400, 'invalid_request', null],
    ['null', 400, 'invalid_request', null],
    ['"x"', 400, 'invalid_request', null],
    ['{}', 400, 'invalid_request', 'model'],
    [JSON.stringify({ model: 'base' }), 400, 'invalid_request', 'messages'],
    [JSON.stringify({ ...good, messages: [] }), 400, 'invalid_request', 'messages'],
    [JSON.stringify({ ...good, messages: 'hi' }), 400, 'invalid_request', 'messages'],
    [JSON.stringify({ ...good, messages: [null] }), 400, 'invalid_request', 'messages[0]'],
    [
      JSON.stringify({ ...good, messages: [{ role: 'x' }] }),
      400,
      'invalid_request',
      'messages[0].role',
    ],
    [JSON.stringify({ ...good, model: 7 }), 400, 'invalid_request', 'model'],
    [JSON.stringify({ ...good, n: 1e6 }), 400, 'invalid_request', 'n'],
    [JSON.stringify({ ...good, n: 0 }), 400, 'invalid_request', 'n'],
    [JSON.stringify({ ...good, max_tokens: -5 }), 400, 'invalid_request', 'max_tokens'],
    [
      JSON.stringify({ ...good, max_completion_tokens: 1.5 }),
      400,
      'invalid_request',
      'max_completion_tokens',
    ],
    [JSON.stringify({ ...good, stream: 'yes' }), 400, 'invalid_request', 'stream'],
    [JSON.stringify({ ...good, stream_options: 1 }), 400, 'invalid_request', 'stream_options'],
    [`{"model":"base","messages":${nested(1_000)}}`, 400, 'invalid_request', null],
    [
      JSON.stringify(good)
        .replace('}', `},"x":${nested(1_000)}`)
        .slice(0, 99_000),
      400,
      'invalid_json',
      null,
    ],
    [
      `{"model":"base","messages":[{"role":"user","content":"x"}],"x":${nested(40_000)}}`,
      400,
      'invalid_request',
      null,
    ],
    ['x'.repeat(100_001), 413, 'request_too_large', null],
    [JSON.stringify({ ...good, model: 'nope' }), 404, 'model_not_found', 'model'],
  ]
  for (const [body, status, code, param] of table) {
    const response = await chat(body)
    const { error } = (await response.json()) as { error: Record<string, unknown> }
    expect({ status: response.status, code: error.code, param: error.param }).toEqual({
      status,
      code,
      param,
    })
    expect(error.type).toBe('invalid_request_error')
    expect(response.headers.get('x-request-id')).toMatch(/^req_/)
  }
})

test('a body is too large though it does not say how long it is', async () => {
  const body = ReadableStream.from(Array.from({ length: 4 }, () => new Uint8Array(50_000).fill(32)))
  const response = await gateway.call('/v1/chat/completions', {
    method: 'POST',
    body,
    duplex: 'half',
  } as RequestInit)
  expect(response.status).toBe(413)
})

test('only JSON is taken', async () => {
  for (const type of ['text/plain', 'multipart/form-data; boundary=x', '']) {
    const response = await chat(JSON.stringify(good), { 'content-type': type })
    expect(response.status).toBe(415)
  }
  const response = await chat(JSON.stringify(good), {
    'content-type': 'Application/JSON; charset=utf-8',
  })
  expect(response.status).toBe(200)
})

test('every key that does not hold gets the same 401', async () => {
  const { api_key, id } = await gateway.admin('POST', `/accounts/${gateway.accountId}/keys`, {
    name: 'old',
  })
  await gateway.admin('DELETE', `/accounts/${gateway.accountId}/keys/${id}`)
  const forged = `${gateway.apiKey.slice(0, -1)}${gateway.apiKey.endsWith('0') ? '1' : '0'}`
  const answers = new Set<string>()
  for (const authorization of [
    '',
    'Bearer',
    'Basic x',
    'Bearer tg_x',
    `Bearer ${forged}`,
    `Bearer ${api_key}`,
  ]) {
    for (const path of ['/v1/chat/completions', '/v1/completions']) {
      const response = await gateway.call(path, {
        json: { ...good, prompt: 'x' },
        headers: { authorization },
      })
      expect(response.status).toBe(401)
      answers.add(await response.text())
    }
    const response = await gateway.call('/v1/models', { headers: { authorization } })
    expect(response.status).toBe(401)
    answers.add(await response.text())
  }
  expect(answers.size).toBe(1)
  const lowerCase = { authorization: `bearer ${gateway.apiKey}` }
  expect((await chat(JSON.stringify(good), lowerCase)).status).toBe(200)
})

test('the official client sees the errors it knows', async () => {
  const client = (apiKey: string) =>
    new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey, maxRetries: 0 })
  const create = (apiKey: string, model: string) =>
    client(apiKey).chat.completions.create({ model, messages })
  await expect(create('tg_wrong', 'base')).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
  await expect(create(gateway.apiKey, 'none')).rejects.toMatchObject({
    status: 404,
    code: 'model_not_found',
  })
})

test('models are listed and found, whatever their names hold', async () => {
  const client = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.apiKey, maxRetries: 0 })
  const ids = (await client.models.list()).data.map((model) => model.id)
  expect(ids).toEqual(['base', 'org/base:adapter', 'silent'])
  for (const id of ids) expect((await client.models.retrieve(id)).id).toBe(id)
  expect(await client.models.retrieve('base')).toMatchObject({ digest: `0x${'cd'.repeat(32)}` })
  expect((await gateway.call('/v1/models/org/base:adapter')).status).toBe(200)
  await expect(client.models.retrieve('none')).rejects.toMatchObject({ status: 404 })
})

test('a backend that stays silent is given up, and costs nothing', async () => {
  for (const stream of [false, true]) {
    const response = await chat(JSON.stringify({ ...good, model: 'silent', stream }))
    expect([response.status, await response.json()]).toMatchObject([
      504,
      { error: { code: 'deadline_exceeded' } },
    ])
    const exchange = upstream.exchanges.at(-1)!
    expect(await exchange.cancelled).toBe(true)
    const lines = await gateway.settledUsage([exchange.requestId])
    expect(lines).toMatchObject([{ outcome: 'upstream_failed', fee_micro_usd: 0 }])
  }
})

test('unknown fields reach the backend untouched, as the bytes they came in', async () => {
  const body = `{ "model":"base", "messages":[{"role":"user","content":"x"}], "future": {"a": [1.0]} }`
  await chat(body)
  expect(upstream.exchanges.at(-1)?.body).toEqual(JSON.parse(body))
})

test('paths and methods that are not there are told in JSON', async () => {
  for (const path of ['/v1/nothing', '/v1/responses/compact']) {
    const missing = await gateway.call(path, { method: 'POST' })
    expect(await missing.json()).toMatchObject({ error: { code: 'not_found' } })
    expect(missing.status).toBe(404)
  }
  const wrong = await gateway.call('/v1/chat/completions')
  expect(wrong.headers.get('allow')).toBe('POST')
  expect([wrong.status, (await wrong.json()) as object]).toMatchObject([
    405,
    { error: { code: 'method_not_allowed' } },
  ])
})

test('the request id is ours, whatever the caller sends', async () => {
  const response = await gateway.call('/v1/key', { headers: { 'x-request-id': 'mine' } })
  expect(response.headers.get('x-request-id')).toMatch(/^req_[0-9a-zA-Z]{24}$/)
  expect(gateway.logLines.some((line) => line.includes('"callerRequestId":"mine"'))).toBe(true)
})

test('browsers may call and read the headers that clients act on', async () => {
  const preflight = await fetch(`${gateway.url}/v1/chat/completions`, {
    method: 'OPTIONS',
    headers: {
      origin: 'https://app.example',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,x-stainless-lang',
    },
  })
  expect(preflight.status).toBe(204)
  expect(preflight.headers.get('access-control-allow-origin')).toBe('*')
  expect(preflight.headers.get('access-control-allow-headers')).toBe(
    'authorization,x-stainless-lang',
  )
  const refused = await chat('{}', { origin: 'https://app.example' })
  expect(refused.headers.get('access-control-expose-headers')).toContain('x-request-id')
})

/** A fresh account with limits, and a caller for it. */
async function createAccount(limits: object) {
  const account = await gateway.admin('POST', '/accounts', { name: 'limited', ...limits })
  const headers = { authorization: `Bearer ${account.api_key}` }
  return {
    id: account.id as string,
    ask: (body: object) => chat(JSON.stringify({ ...good, ...body }), headers),
    headers,
  }
}

test('a budget admits what it covers, however many ask at once, and says which is used up', async () => {
  // The worst case: a whole context of 100 prompt tokens and one of 10 answer tokens.
  const worstCaseMicroUsd = Math.ceil((100 * 200_000 + 10 * 600_000) / 1_000_000)
  const account = await createAccount({ budget_micro_usd: 3 * worstCaseMicroUsd })
  const answers = await Promise.all(
    Array.from({ length: 12 }, () => account.ask({ max_tokens: 10 })),
  )
  const refused = answers.filter((answer) => answer.status === 402)
  expect(answers.length - refused.length).toBeGreaterThanOrEqual(3)
  expect(refused.length).toBeGreaterThan(0)
  for (const answer of refused) {
    expect(answer.headers.get('x-should-retry')).toBe('false')
    expect(await answer.json()).toMatchObject({
      error: {
        code: 'budget_exceeded',
        type: 'insufficient_quota',
        message: expect.stringContaining("account's budget"),
      },
    })
  }
  const { budget } = await gateway.admin('GET', `/accounts/${account.id}`)
  expect(budget.spent_micro_usd).toBeLessThanOrEqual(budget.limit_micro_usd)

  await gateway.admin('PATCH', `/accounts/${account.id}`, { budget_micro_usd: null })
  expect((await account.ask({})).status).toBe(200)
})

test('a rate limit says when to come back', async () => {
  const account = await createAccount({ requests_per_minute: 1 })
  expect((await account.ask({})).status).toBe(200)
  const refused = await account.ask({})
  expect(refused.status).toBe(429)
  expect(await refused.json()).toMatchObject({ error: { code: 'rate_limit_exceeded' } })
  const retryAfterMs = Number(refused.headers.get('retry-after-ms'))
  expect(retryAfterMs).toBeGreaterThan(0)
  expect(Number(refused.headers.get('retry-after'))).toBe(Math.ceil(retryAfterMs / 1_000))
  expect(refused.headers.get('x-ratelimit-limit-requests')).toBe('1')
  expect(refused.headers.get('x-ratelimit-reset-requests')).toMatch(/^(\d+m)?[\d.]+m?s$/)
})

test('a key that is bound to models sees and uses those alone', async () => {
  const { api_key } = await gateway.admin('POST', `/accounts/${gateway.accountId}/keys`, {
    name: 'bound',
    models: ['base'],
  })
  const headers = { authorization: `Bearer ${api_key}` }
  const list = (await (await gateway.call('/v1/models', { headers })).json()) as {
    data: { id: string }[]
  }
  expect(list.data.map((model) => model.id)).toEqual(['base'])
  const refused = await chat(JSON.stringify({ ...good, model: 'org/base:adapter' }), headers)
  expect([refused.status, await refused.json()]).toMatchObject([
    403,
    { error: { code: 'model_not_allowed' } },
  ])
})

test('usage is told at once, paged, summed and given as CSV, to its own account alone', async () => {
  const account = await createAccount({})
  for (let count = 0; count < 3; count++) await account.ask({})
  const read = async (query: string) =>
    // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
    (await (await gateway.call(`/v1/usage${query}`, account)).json()) as any
  expect((await read('')).data).toHaveLength(3) // at once
  const first = await read('?limit=2&group_by=model')
  expect(first).toMatchObject({
    has_more: true,
    sums: [{ group: 'base', request_count: 3, prompt_tokens: 12, completion_tokens: 3 }],
  })
  const second = await read(`?limit=2&cursor=${first.next_cursor}`)
  expect(second).toMatchObject({ has_more: false, next_cursor: null })
  expect(new Set([...first.data, ...second.data].map((line) => line.request_id)).size).toBe(3)
  expect((await read('?limit=0')).error).toMatchObject({ code: 'invalid_request', param: 'limit' })
  const csv = await gateway.call('/v1/usage', {
    headers: { ...account.headers, accept: 'text/csv' },
  })
  expect(csv.headers.get('content-type')).toContain('text/csv')
  expect((await csv.text()).trim().split('\r\n')).toHaveLength(4)
})

test('a receipt is found by either id, at once, and by its own account alone', async () => {
  const response = await chat(JSON.stringify(good))
  const requestId = response.headers.get('x-request-id')!
  const receipt = (await (await gateway.call(`/v1/receipts/${requestId}`)).json()) as object
  expect(receipt).toMatchObject({
    state: 'pending',
    leaf: { requestId, promptTokens: 4, completionTokens: 1 },
    account: { id: gateway.accountId },
  })
  const alias = await gateway.call(`/v1/receipts/chatcmpl-${requestId.slice(4)}`)
  expect(await alias.json()).toEqual(receipt)

  const stranger = await createAccount({})
  for (const [id, init] of [
    [requestId, stranger],
    ['req_none', {}],
    ['key_x', {}],
  ] as const) {
    const refused = await gateway.call(`/v1/receipts/${id}`, init)
    expect([refused.status, await refused.json()]).toMatchObject([
      404,
      { error: { code: 'not_found' } },
    ])
  }
})

test('the operator can run an anchor cycle and is told why it waits', async () => {
  expect(await gateway.admin('POST', '/anchor')).toMatchObject({
    outcome: 'not_configured',
    missing: ['CHAIN_RPC_URL', 'ANCHOR_ADDRESS', 'ANCHOR_PRIVATE_KEY'],
  })
  expect(await gateway.admin('GET', '/batches')).toEqual({ object: 'list', data: [] })
})

test('the admin API wants the operator’s key, and names what is not there', async () => {
  const response = await gateway.call('/admin/v1/accounts', { json: { name: 'x' } })
  expect(response.status).toBe(401)
  expect(await gateway.admin('GET', '/accounts/acct_none')).toMatchObject({
    error: { code: 'not_found' },
  })
  expect(await gateway.admin('POST', '/accounts', { name: 'x', budget: 5 })).toMatchObject({
    error: { code: 'invalid_request', message: expect.stringContaining('budget') },
  })
})

test('no log line of all this holds a prompt or a key', () => {
  const log = gateway.logLines.join('\n')
  for (const secret of [CANARY, gateway.apiKey, gateway.adminKey]) expect(log).not.toContain(secret)
})
