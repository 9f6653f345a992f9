import OpenAI from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ModelBackend, startModelBackend } from '../../support/model-backend.ts'

let backend: ModelBackend
let model: string

beforeAll(async () => {
  backend = await startModelBackend({ seed: 5 })
  const { data } = (await (await fetch(`${backend.url}/v1/models`)).json()) as {
    data: { id: string }[]
  }
  model = data[0]!.id
})

afterAll(async () => {
  expect(backend.faults).toEqual([])
  await backend.close()
})

const post = (path: string, body: object) =>
  fetch(`${backend.url}${path}`, { method: 'POST', body: JSON.stringify(body) })

async function read(path: string, body: object) {
  const response = await post(path, body)
  expect(response.status).toBe(200)
  return (await response.json()) as {
    count: number
    max_model_len: number
    tokens: number[]
    token_strs: string[] | null
    prompt: string
  }
}

test('a text comes back from its tokens, on vLLM’s paths and on ours', async () => {
  for (const prefix of ['', '/v1']) {
    const prompt = 'the cat in the hat ½'
    const told = await read(`${prefix}/tokenize`, { model, prompt, add_special_tokens: false })
    expect(told).toMatchObject({ count: told.tokens.length, token_strs: null })
    expect(told.max_model_len).toBeGreaterThan(0)
    expect(await read(`${prefix}/detokenize`, { model, tokens: told.tokens })).toEqual({ prompt })
  }
})

test('the spelling of each token is told when asked for', async () => {
  const prompt = 'the cat'
  const options = { prompt, add_special_tokens: false, return_token_strs: true }
  expect((await read('/tokenize', options)).token_strs!.join('')).toBe(prompt)
})

test('a conversation has the tokens that it is billed for', async () => {
  const messages = [
    { role: 'system' as const, content: 'Be brief.' },
    { role: 'user' as const, content: 'the cat' },
  ]
  const { count, tokens } = await read('/tokenize', { model, messages })
  const client = new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
  const { usage } = await client.chat.completions.create({ model, messages, max_tokens: 1 })
  expect(count).toBe(usage!.prompt_tokens)
  expect((await read('/detokenize', { tokens })).prompt).toContain('Be brief.')
})

test.each<[string, object, string, string]>([
  ['/tokenize', { model: 'none', prompt: 'x' }, 'model_not_found', 'model'],
  ['/tokenize', {}, 'invalid_request', 'prompt'],
  [
    '/tokenize',
    { prompt: 'x', messages: [{ role: 'user', content: 'x' }] },
    'invalid_request',
    'prompt',
  ],
  ['/tokenize', { prompt: 'x', chat_template: 'y' }, 'unsupported_parameter', 'chat_template'],
  [
    '/tokenize',
    { messages: [{ role: 'user', content: 'x' }], add_special_tokens: true },
    'invalid_request',
    'add_special_tokens',
  ],
  ['/tokenize', { prompt: 'x '.repeat(200_000) }, 'context_length_exceeded', 'prompt'],
  ['/detokenize', { tokens: [1, 1_000_000] }, 'invalid_request', 'tokens[1]'],
  ['/detokenize', { tokens: 'x' }, 'invalid_request', 'tokens'],
])('bad input is refused by its field: %s %#', async (path, body, code, param) => {
  const response = await post(path, body)
  expect(await response.json()).toMatchObject({ error: { code, param } })
})
