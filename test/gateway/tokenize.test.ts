import { expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'

const { upstream, gateway } = useScriptedGateway({
  vllm: {
    script: ({ res, sendJson }) =>
      res.req.url === '/tokenize'
        ? sendJson(200, { count: 2, max_model_len: 64, tokens: [5, 6], token_strs: null })
        : sendJson(200, { prompt: 'hello' }),
  },
  other: { script: ({ sendJson }) => sendJson(404, { detail: 'Not Found' }) },
})

const settled = async () => (await gateway.settledUsage([upstream.exchanges.at(-1)!.requestId]))[0]

test('tokens are told as the backend tells them, free of charge, and count as requests', async () => {
  const prompt = { model: 'vllm', prompt: 'hello', add_special_tokens: false }
  const told = await gateway.call('/v1/tokenize', { json: prompt })
  expect(await told.json()).toEqual({
    count: 2,
    max_model_len: 64,
    tokens: [5, 6],
    token_strs: null,
  })
  expect(upstream.exchanges.at(-1)!.body).toEqual(prompt)
  const limit = Number(told.headers.get('x-ratelimit-limit-requests'))
  expect(Number(told.headers.get('x-ratelimit-remaining-requests'))).toBeLessThan(limit)
  expect(await settled()).toMatchObject({
    endpoint: 'tokenize',
    outcome: 'completed',
    prompt_tokens: 0,
    completion_tokens: 0,
    fee_micro_usd: 0,
  })
  const text = await gateway.call('/v1/detokenize', { json: { model: 'vllm', tokens: [5, 6] } })
  expect(await text.json()).toEqual({ prompt: 'hello' })
  expect(await settled()).toMatchObject({ endpoint: 'detokenize', fee_micro_usd: 0 })
})

test('a budget that is used up does not stand in the way', async () => {
  const account = await gateway.admin('POST', '/accounts', { name: 'poor', budget_micro_usd: 0 })
  const response = await gateway.call('/v1/tokenize', {
    json: { model: 'vllm', prompt: 'x' },
    headers: { authorization: `Bearer ${account.api_key}` },
  })
  expect(response.status).toBe(200)
})

test('a backend that cannot do it says so of the model, not of the path', async () => {
  const response = await gateway.call('/v1/tokenize', { json: { model: 'other', prompt: 'x' } })
  expect([response.status, await response.json()]).toMatchObject([
    400,
    { error: { code: 'unsupported_parameter', param: 'model' } },
  ])
})

test.each<[string, object, string]>([
  ['/v1/tokenize', {}, 'prompt'],
  ['/v1/tokenize', { prompt: 'x', messages: [{ role: 'user', content: 'x' }] }, 'prompt'],
  ['/v1/tokenize', { messages: [{ role: 'user', content: 5 }] }, 'messages[0].content'],
  ['/v1/detokenize', { tokens: [1, -1] }, 'tokens[1]'],
])('a bad request is refused by its field: %s %j', async (path, fields, param) => {
  const response = await gateway.call(path, { json: { model: 'vllm', ...fields } })
  expect(await response.json()).toMatchObject({ error: { code: 'invalid_request', param } })
})
