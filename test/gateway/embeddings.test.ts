import OpenAI from 'openai'
import { beforeAll, expect, test } from 'vitest'
import { useScriptedGateway } from '../support/scripted-gateway.ts'

const VECTOR = [0.6, -0.8]

let openai: OpenAI

const { upstream, gateway } = useScriptedGateway({
  foreign: {
    script: ({ body, sendJson }) =>
      sendJson(200, {
        object: 'list',
        model: 'foreign',
        data: [body.input].flat().map((_, index) => ({
          object: 'embedding',
          index,
          embedding:
            body.encoding_format === 'base64'
              ? Buffer.from(Float32Array.from(VECTOR).buffer).toString('base64')
              : VECTOR,
        })),
        usage: { prompt_tokens: 9, total_tokens: 9 },
      }),
  },
  broken: { script: ({ sendJson }) => sendJson(500, {}) },
})

beforeAll(() => {
  openai = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.apiKey, maxRetries: 0 })
})

const settledId = () => upstream.exchanges.at(-1)!.requestId

test('relays what the official client asks for, and bills the tokens of the input alone', async () => {
  const { data, usage } = await openai.embeddings.create({ model: 'foreign', input: ['a', 'b'] })
  expect(data.map(({ embedding }) => embedding)).toEqual(
    [VECTOR, VECTOR].map((vector) => [...Float32Array.from(vector)]),
  )
  expect(usage).toEqual({ prompt_tokens: 9, total_tokens: 9 })
  expect(upstream.exchanges.at(-1)!.res.req.url).toBe('/v1/embeddings')
  const [record] = await gateway.settledUsage([settledId()])
  expect(record).toMatchObject({
    outcome: 'completed',
    prompt_tokens: 9,
    completion_tokens: 0,
  })
  expect(record!.fee_micro_usd).toBeGreaterThan(0)
})

test('changes nothing of the request', async () => {
  const body = { model: 'foreign', input: [5, 6, 7], encoding_format: 'float', dimensions: 2 }
  const response = await gateway.call('/v1/embeddings', { method: 'POST', json: body })
  expect(response.status).toBe(200)
  expect(upstream.exchanges.at(-1)!.body).toEqual(body)
})

test('bills nothing for a failure', async () => {
  const failed = openai.embeddings.create({ model: 'broken', input: 'a' })
  await expect(failed).rejects.toMatchObject({ status: 502 })
  const [record] = await gateway.settledUsage([settledId()])
  expect(record).toMatchObject({ outcome: 'upstream_failed', fee_micro_usd: 0 })
})

test.each<[object, string]>([
  [{ input: undefined }, 'input'],
  [{ input: [] }, 'input'],
  [{ input: [[]] }, 'input[0]'],
  [{ input: new Array(2049).fill('a') }, 'input'],
  [{ model: '' }, 'model'],
])('refuses a bad request before it costs anything', async (fields, param) => {
  const count = upstream.exchanges.length
  const json = { model: 'foreign', input: 'a', ...fields }
  const response = await gateway.call('/v1/embeddings', { method: 'POST', json })
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({ error: { code: 'invalid_request', param } })
  expect(upstream.exchanges).toHaveLength(count)
})
