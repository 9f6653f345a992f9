import { beforeAll, expect, test } from 'vitest'
import { ERRORS } from '../../worker/errors.ts'
import { type ApiDocument, readApiDocument } from '../support/api-document.ts'
import { useScriptedGateway } from '../support/scripted-gateway.ts'
import { type Exchange, usageOf } from '../support/scripted-upstream.ts'

let api: ApiDocument

const DIGEST = `0x${'cd'.repeat(32)}`

const { upstream, gateway } = useScriptedGateway({ base: { script: answer, digest: DIGEST } })

beforeAll(async () => {
  api = await readApiDocument(gateway.url)
})

function answer({ res, sendJson }: Exchange): void {
  const choice = { index: 0, finish_reason: 'stop' }
  const fields: Record<string, object> = {
    '/v1/embeddings': { data: [{ index: 0, embedding: [1] }] },
    '/v1/completions': { choices: [{ ...choice, text: 'ok' }] },
    '/tokenize': { count: 1, max_model_len: 9, tokens: [5] },
    '/detokenize': { prompt: 'x' },
    '/v1/chat/completions': {
      choices: [{ ...choice, message: { role: 'assistant', content: 'ok' } }],
    },
  }
  sendJson(200, { model: 'base', ...fields[res.req.url ?? ''], usage: usageOf(3, 1) })
}

test('the document is sound: unique ids, whole references, declared parameters', () => {
  const { openapi, operations } = api
  expect(openapi.openapi).toBe('3.1.0')
  expect(new Set(operations.map(({ operationId }) => operationId)).size).toBe(operations.length)
  for (const [, kind, name] of JSON.stringify(openapi).matchAll(/#\/components\/(\w+)\/([^"]+)/g)) {
    expect(openapi.components[kind!], `${kind}/${name}`).toHaveProperty([name!])
  }
  const tags = openapi.tags.map(({ name }: { name: string }) => name)
  for (const { path, operation } of operations) {
    const declared = (operation.parameters ?? [])
      .filter((parameter: { in: string }) => parameter.in === 'path')
      .map(({ name }: { name: string }) => name)
    expect(declared).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name))
    expect(tags).toContain(operation.tags[0])
    for (const scheme of operation.security.flatMap(Object.keys)) {
      expect(openapi.components.securitySchemes).toHaveProperty(scheme)
    }
    for (const [status, { description }] of Object.entries<{ description: string }>(
      operation.responses,
    )) {
      if (Number(status) < 400) continue
      for (const [, code] of description.matchAll(/^`(\w+)`/gm)) {
        expect(ERRORS).toHaveProperty([code!, 'status'], Number(status))
      }
    }
  }
})

test('the reference stands in the page itself, and lets in one script by its hash', async () => {
  const read = async () => {
    const response = await fetch(`${gateway.url}/reference`)
    return { policy: response.headers.get('content-security-policy')!, page: await response.text() }
  }
  const { policy, page } = await read()
  for (const { operationId, path, operation } of api.operations) {
    expect(page).toContain(`<article id="${operationId}">`)
    expect(page).toContain(path)
    expect(page).toContain(operation.summary)
  }
  expect(page).toContain('messages[].role')
  const [, source, hash] = /<script defer src="([^"]+)" integrity="(sha384-[^"]+)"/.exec(page)!
  expect(hash).toHaveLength(71)
  expect(policy).toContain("default-src 'none'")
  const nonce = /nonce="([^"]+)"/.exec(page)![1]!
  expect(policy).toContain(`script-src 'nonce-${nonce}' ${source};`)
  expect((await read()).page).not.toContain(nonce)
})

test('every operation answers as the document says', async () => {
  const seen = new Set<string>()
  const adminHeaders = { authorization: `Bearer ${gateway.adminKey}` }
  const ask = async (
    operationId: string,
    path: string,
    init: RequestInit & { json?: unknown } = {},
  ) => {
    seen.add(operationId)
    const isAdmin = path.startsWith('/admin')
    const headers = { ...(isAdmin && adminHeaders), ...(init.headers as Record<string, string>) }
    return api.expectDocumented(operationId, await gateway.call(path, { ...init, headers }))
  }
  const messages = [{ role: 'user', content: 'x' }]
  await ask('getOpenApiDocument', '/openapi.json')
  await ask('getReference', '/reference')
  await ask('getHealth', '/health')
  await ask('getMetrics', '/metrics', { headers: adminHeaders })
  await ask('createChatCompletion', '/v1/chat/completions', { json: { model: 'base', messages } })
  await ask('createCompletion', '/v1/completions', { json: { model: 'base', prompt: 'x' } })
  await ask('createEmbeddings', '/v1/embeddings', { json: { model: 'base', input: 'x' } })
  const { id: responseId } = await ask('createResponse', '/v1/responses', {
    json: { model: 'base', input: 'x', store: true },
  })
  await ask('getResponse', `/v1/responses/${responseId}`)
  await ask('deleteResponse', `/v1/responses/${responseId}`, { method: 'DELETE' })
  await ask('createTokenization', '/v1/tokenize', { json: { model: 'base', prompt: 'x' } })
  await ask('createDetokenization', '/v1/detokenize', { json: { model: 'base', tokens: [5] } })
  await ask('listModels', '/v1/models')
  await ask('getModel', '/v1/models/base')
  await ask('listUsage', '/v1/usage')
  await ask('listUsage', '/v1/usage', { headers: { accept: 'text/csv' } })
  await ask('listStatements', '/v1/statements')
  const thisMonth = new Date().toISOString().slice(0, 7)
  await ask('getStatement', `/v1/statements/${thisMonth}`)
  await ask('getStatement', `/v1/statements/${thisMonth}`, { headers: { accept: 'text/csv' } })
  await ask('getKey', '/v1/key')
  await ask('getReceipt', `/v1/receipts/${upstream.exchanges[0]!.requestId}`)
  await ask('getBatchPayload', `/batches/${DIGEST}`)

  const alerts = { url: 'https://hooks.example/x', percents: [50] }
  const account = await ask('createAccount', '/admin/v1/accounts', {
    json: {
      name: 'documented',
      budget_micro_usd: 5,
      window_budgets: [{ window: 'rolling', limit_micro_usd: 9, duration_ms: 60_000 }],
      alerts,
    },
  })
  const path = `/admin/v1/accounts/${account.id}`
  await ask('getAccount', path)
  await ask('updateAccount', path, { json: { budget_micro_usd: null }, method: 'PATCH' })
  await ask('listAlerts', `${path}/alerts`)
  const { id } = await ask('createKey', `${path}/keys`, {
    json: { name: 'second', scopes: ['inference'] },
  })
  await ask('changeKey', `${path}/keys/${id}`, { json: { name: 'other' }, method: 'PATCH' })
  await ask('rotateKey', `${path}/keys/${id}/rotate`, { json: {} })
  await ask('listKeys', `${path}/keys`)
  await ask('revokeKey', `${path}/keys/${id}`, { method: 'DELETE' })
  const { id: memberId } = await ask('createMember', `${path}/members`, {
    json: { name: 'ada', model_limits: [{ model: 'base', requests_per_minute: 5 }] },
  })
  const changes = { json: { budget_micro_usd: 5 }, method: 'PATCH' }
  await ask('updateMember', `${path}/members/${memberId}`, changes)
  await ask('listMembers', `${path}/members`)
  await ask('removeMember', `${path}/members/${memberId}`, { method: 'DELETE' })
  const credit = { id: 'first', amount_micro_usd: 5, expires_at_ms: null, reason: 'welcome' }
  await ask('grantCredit', `${path}/credits`, { json: credit })
  await ask('listCredits', `${path}/credits`)
  await ask('listAccountStatements', `${path}/statements`)
  await ask('getAccountStatement', `${path}/statements/${thisMonth}`)
  await ask('setStripeAccount', `${path}/stripe`, { json: { customer_id: 'cus_documented' } })
  await ask('getStripeAccount', `${path}/stripe`)
  await ask('runStripe', '/admin/v1/stripe', { method: 'POST' })
  await ask('createPrice', '/admin/v1/prices', {
    json: {
      model: 'base',
      prompt_micro_usd_per_million: 1,
      cached_micro_usd_per_million: 1,
      completion_micro_usd_per_million: 1,
    },
  })
  await ask('listPrices', '/admin/v1/prices')
  await ask('runAnchorCycle', '/admin/v1/anchor', { method: 'POST' })
  await ask('listBatches', '/admin/v1/batches')
  expect([...seen].toSorted()).toEqual(
    api.operations
      // Adapters need a backend that has them: adapters.test.ts and datanets.test.ts check each answer.
      .filter(({ operation }) => operation.tags[0] !== 'Adapters')
      .map(({ operationId }) => operationId)
      .toSorted(),
  )
})

test('refusals are as the document says, of every operation', async () => {
  const { api_key: apiKey } = await gateway.admin('POST', `/accounts/${gateway.accountId}/keys`, {
    name: 'all',
    scopes: ['inference', 'usage:read', 'receipts:read', 'adapters:read', 'adapters:write'],
  })
  for (const { operationId, path, method, operation } of api.operations) {
    const url = path.replace(/\{\w+\}/g, 'none')
    const authorization = operation.security.length === 0 ? '' : 'Bearer tg_wrong'
    const withoutKey = await gateway.call(url, { method, headers: { authorization } })
    if (operation.security.length > 0) expect(withoutKey.status).toBe(401)
    if (withoutKey.status >= 400) await api.expectDocumented(operationId, withoutKey)
    if (!operation.requestBody?.content['application/json']) continue
    const isAdmin = path.startsWith('/admin')
    const badBody = await gateway.call(url, {
      method,
      body: '{"model": 5, "name": 5, "grace_ms": "x", "budget_micro_usd": "x"}',
      headers: { authorization: `Bearer ${isAdmin ? gateway.adminKey : apiKey}` },
    })
    expect(badBody.status, operationId).toBe(400)
    expect(await api.expectDocumented(operationId, badBody)).toMatchObject({
      error: {
        code: expect.stringMatching(/^(invalid_request|unsupported_parameter)$/),
        param: expect.any(String),
      },
    })
  }
})
