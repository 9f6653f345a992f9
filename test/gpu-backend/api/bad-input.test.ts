import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startTestBackend, type TestBackend } from '../../support/test-backend.ts'

const CANARY = 'canary-4711'

let backend: TestBackend

beforeAll(async () => {
  backend = await startTestBackend({ maxBodyBytes: 100_000, bearerToken: `key-${CANARY}` })
})

afterAll(async () => {
  await backend.close()
  expect(backend.logLines.length).toBeGreaterThan(0)
  expect(backend.logLines.filter((line) => line.includes(CANARY))).toEqual([])
})

const authorization = `bearer key-${CANARY}`

async function send(path: string, body: string | object, init: RequestInit = {}) {
  const response = await fetch(backend.url + path, {
    method: 'POST',
    headers: { authorization, 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
    ...init,
  })
  const answer = (await response.json()) as { error?: Record<string, unknown> }
  expect(response.headers.get('x-request-id')).toMatch(/^req_[0-9a-zA-Z]+$/)
  return { status: response.status, error: answer.error ?? null }
}

const chat = (fields: object) => ({
  model: 'tiny',
  messages: [{ role: 'user', content: CANARY }],
  ...fields,
})
const userContent = (content: unknown) => ({ messages: [{ role: 'user', content }] })

const nested = (depth: number) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`
const call = (name: string, values: string) => ({
  id: 'call_1',
  type: 'function',
  function: { name, arguments: values },
})
const assistantCalls = (calls: object[]) => ({
  messages: [{ role: 'assistant', content: '', tool_calls: calls }],
})
const tool = (name: string, parameters: object = {}, strict = false) => ({
  type: 'function',
  function: { name, parameters, strict },
})
const jsonSchema = (schema: object) => ({
  response_format: { type: 'json_schema', json_schema: { name: 'it', schema } },
})

describe('a chat request is refused with the field at fault', () => {
  test.each<[object, string, string?]>([
    [{ model: undefined }, 'model'],
    [{ model: 3 }, 'model'],
    [{ messages: undefined }, 'messages'],
    [{ messages: [] }, 'messages'],
    [{ messages: 'hi' }, 'messages'],
    [{ messages: ['hi'] }, 'messages[0]'],
    [{ messages: [{ role: 'robot', content: CANARY }] }, 'messages[0].role'],
    [{ messages: [{ content: CANARY }] }, 'messages[0].role'],
    [{ messages: [{ role: 'user' }] }, 'messages[0].content'],
    [userContent(null), 'messages[0].content'],
    [userContent(7), 'messages[0].content'],
    [userContent([]), 'messages[0].content'],
    [userContent(['x']), 'messages[0].content[0]'],
    [userContent([{ type: 'text' }]), 'messages[0].content[0].text'],
    [
      userContent([
        { type: 'text', text: CANARY },
        { type: 'image_url', image_url: { url: 'x' } },
      ]),
      'messages[0].content[1].type',
      'unsupported_parameter',
    ],
    [assistantCalls([{}]), 'messages[0].tool_calls[0].id'],
    [assistantCalls([]), 'messages[0].tool_calls'],
    [assistantCalls([call('f', '[1]')]), 'messages[0].tool_calls[0].function.arguments'],
    [assistantCalls([call('f', '{')]), 'messages[0].tool_calls[0].function.arguments'],
    [assistantCalls([call('f', nested(70))]), 'messages[0].tool_calls[0].function.arguments'],
    [
      { messages: [{ role: 'user', content: 'x', tool_calls: [call('f', '{}')] }] },
      'messages[0].tool_calls',
    ],
    [{ temperature: -0.1 }, 'temperature'],
    [{ temperature: 2.1 }, 'temperature'],
    [{ temperature: '1' }, 'temperature'],
    [{ top_p: 1.01 }, 'top_p'],
    [{ top_k: 1.5 }, 'top_k'],
    [{ min_p: 2 }, 'min_p'],
    [{ presence_penalty: 3 }, 'presence_penalty'],
    [{ frequency_penalty: -3 }, 'frequency_penalty'],
    [{ repetition_penalty: 0 }, 'repetition_penalty'],
    [{ max_tokens: 0 }, 'max_tokens'],
    [{ max_tokens: -5 }, 'max_tokens'],
    [{ max_tokens: 'abc' }, 'max_tokens'],
    [{ max_tokens: 1.5 }, 'max_tokens'],
    [{ max_completion_tokens: 0 }, 'max_completion_tokens'],
    [{ n: 0 }, 'n'],
    [{ n: 1e6 }, 'n'],
    [{ stop: '' }, 'stop'],
    [{ stop: ['a', 'b', 'c', 'd', 'e'] }, 'stop'],
    [{ stop: ['a', ''] }, 'stop[1]'],
    [{ stop: 3 }, 'stop'],
    [{ logit_bias: { x: 1 } }, 'logit_bias.x'],
    [{ logit_bias: { 1: 101 } }, 'logit_bias.1'],
    [{ logit_bias: { 256: 1 } }, 'logit_bias'],
    [{ logit_bias: Object.fromEntries(Array(1025).fill(1).entries()) }, 'logit_bias'],
    [{ seed: 1.5 }, 'seed'],
    [{ stream: 'yes' }, 'stream'],
    [{ stream_options: { include_usage: true } }, 'stream_options'],
    [{ tools: [{ type: 'function' }] }, 'tools[0].function'],
    [{ tools: [{ type: 'custom' }] }, 'tools[0].type', 'unsupported_parameter'],
    [{ tools: [tool('f g')] }, 'tools[0].function.name'],
    [{ tools: [tool('f', JSON.parse(nested(70)))] }, 'tools[0].function.parameters'],
    [{ tools: Array(129).fill(tool('f')) }, 'tools'],
    [
      { tools: [tool('f', { properties: { a: { pattern: '(' } } }, true)] },
      'tools[0].function.parameters.properties.a.pattern',
      'unsupported_parameter',
    ],
    [{ tool_choice: 'required' }, 'tool_choice'],
    [{ tool_choice: 'some', tools: [tool('f')] }, 'tool_choice'],
    [
      { tool_choice: { type: 'function', function: { name: 'g' } }, tools: [tool('f')] },
      'tool_choice',
    ],
    [{ functions: [{}] }, 'functions', 'unsupported_parameter'],
    [{ response_format: { type: 'xml' } }, 'response_format.type', 'unsupported_parameter'],
    [{ response_format: { type: 'json_schema' } }, 'response_format.json_schema'],
    [
      jsonSchema({ type: 'object', properties: { a: { type: 'number', multipleOf: 2 } } }),
      'response_format.json_schema.schema.properties.a.multipleOf',
      'unsupported_parameter',
    ],
    [{ logprobs: 1 }, 'logprobs'],
    [{ top_logprobs: 2 }, 'top_logprobs'],
    [{ logprobs: true, top_logprobs: 21 }, 'top_logprobs'],
  ])('%j', async (fields, param, code = 'invalid_request') => {
    const { status, error } = await send('/v1/chat/completions', chat(fields))
    expect({ status, param: error?.param, code: error?.code }).toEqual({ status: 400, param, code })
    expect(error?.message).toContain(`'${param}'`)
    expect(error?.type).toBe('invalid_request_error')
  })
})

describe('a completion request is refused with the field at fault', () => {
  test.each<[object, string, string?]>([
    [{}, 'prompt'],
    [{ prompt: '' }, 'prompt'],
    [{ prompt: [] }, 'prompt'],
    [{ prompt: [''] }, 'prompt'],
    [{ prompt: [[]] }, 'prompt[0]'],
    [{ prompt: [1, 'a'] }, 'prompt'],
    [{ prompt: [-1] }, 'prompt'],
    [{ prompt: [256] }, 'prompt'],
    [{ prompt: Array(65).fill('a') }, 'prompt'],
    [{ prompt: Array(64).fill('a'), n: 5 }, 'n'],
    [{ prompt: 'a', best_of: 2 }, 'best_of', 'unsupported_parameter'],
    [{ prompt: 'a', suffix: 'b' }, 'suffix', 'unsupported_parameter'],
    [{ prompt: 'a', logprobs: 6 }, 'logprobs'],
    [{ prompt: 'a', max_tokens: -1 }, 'max_tokens'],
  ])('%j', async (fields, param, code = 'invalid_request') => {
    const { status, error } = await send('/v1/completions', { model: 'tiny', ...fields })
    expect({ status, param: error?.param, code: error?.code }).toEqual({ status: 400, param, code })
  })
})

test('more answers than may wait together are refused with the limit', async () => {
  const fields = { model: 'tiny', prompt: Array(64).fill('a'), n: 5 }
  const { error } = await send('/v1/completions', fields)
  expect(error?.message).toBe(
    "'n': asks for 320 answers (64 prompts × 5); this server takes at most 256 in one request",
  )
})

test('fields that ask for nothing, and unknown ones, are let through', async () => {
  const fields = {
    temperature: null,
    stop: null,
    n: null,
    seed: null,
    stream_options: null,
    tools: [],
    tool_choice: 'auto',
    response_format: { type: 'text' },
    logprobs: false,
    metadata: { a: 'b' },
    brand_new: { deep: true },
  }
  expect((await send('/v1/chat/completions', chat(fields))).status).toBe(200)
})

test('a prompt that is too long is told the numbers, and so is an answer that would be', async () => {
  const long = await send('/v1/chat/completions', chat(userContent('x'.repeat(600))))
  expect(long).toMatchObject({
    status: 400,
    error: { code: 'context_length_exceeded', param: 'messages' },
  })
  expect(long.error?.message).toMatch(/512 tokens.*607/)
  const huge = await send('/v1/chat/completions', chat(userContent('x'.repeat(90_000))))
  expect(huge.error).toMatchObject({ code: 'context_length_exceeded', param: 'messages' })
  expect(huge.error?.message).toContain('512')
  const many = chat({ messages: Array(600).fill({ role: 'user', content: '' }) })
  expect((await send('/v1/chat/completions', many)).error?.code).toBe('context_length_exceeded')
  const asked = await send('/v1/chat/completions', chat({ max_tokens: 500 }))
  expect(asked.error).toMatchObject({ code: 'context_length_exceeded', param: 'max_tokens' })
  expect(asked.error?.message).toMatch(/512.*18.*500/)
})

test.each([
  ['', 'invalid_json'],
  ['{"model": "tiny"', 'invalid_json'],
  ['null', 'invalid_request'],
  ['[]', 'invalid_request'],
  ['"x"', 'invalid_request'],
  [`${'['.repeat(40_000)}${']'.repeat(40_000)}`, 'invalid_request'],
  [`{"model":"tiny","messages":${'['.repeat(40_000)}${']'.repeat(40_000)}}`, 'invalid_request'],
])('the body %# of these is a 400', async (body, code) => {
  expect(await send('/v1/chat/completions', body)).toMatchObject({ status: 400, error: { code } })
})

test.each(['\\ud800', '\\udc00x', '\\u0000', '\\ufffe', '\\ud83d\\ude00'])(
  'the text "%s" is answered',
  async (text) => {
    const body = `{"model":"tiny","messages":[{"role":"user","content":"${text}"}],"stop":"${text}"}`
    expect((await send('/v1/chat/completions', body)).status).toBe(200)
  },
)

test('a body over the limit is a 413, announced or not', async () => {
  const body = `"${'x'.repeat(4_000_000)}"`
  expect(await send('/v1/chat/completions', body)).toMatchObject({
    status: 413,
    error: { code: 'request_too_large' },
  })
  const chunked = new Blob([body]).stream()
  const init = { body: chunked, duplex: 'half' } as RequestInit
  expect(await send('/v1/chat/completions', '', init)).toMatchObject({ status: 413 })
  expect((await send('/v1/chat/completions', chat({}))).status).toBe(200)
})

test('a body that ends early harms nobody else', async () => {
  const { hostname, port } = new URL(backend.url)
  const socket = connect(Number(port), hostname)
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: ${authorization}\r\ncontent-length: 100\r\n\r\n{"model"`,
  )
  socket.end()
  await new Promise((resolve) => socket.resume().on('close', resolve))
  expect((await send('/v1/chat/completions', chat({}))).status).toBe(200)
})

test.each([
  ['GET', '/v1/chat/completions', 405, 'method_not_allowed'],
  ['PUT', '/v1/adapters', 405, 'method_not_allowed'],
  ['POST', '/v1/models/tiny', 405, 'method_not_allowed'],
  ['GET', '/v1/none', 404, 'not_found'],
  ['GET', '/', 404, 'not_found'],
  ['GET', '/v1/models/none', 404, 'model_not_found'],
  ['GET', '/v1/models/%E0%A4%A', 404, 'model_not_found'],
  ['GET', '/v1/adapters/none', 404, 'not_found'],
  ['DELETE', '/v1/adapters/none', 404, 'not_found'],
  ['GET', '/tallygate/requests/req_none', 404, 'not_found'],
])('%s %s is %i %s, in JSON', async (method, path, status, code) => {
  const response = await fetch(backend.url + path, { method, headers: { authorization } })
  expect(response.status).toBe(status)
  expect(await response.json()).toMatchObject({ error: { code, type: 'invalid_request_error' } })
  if (status === 405) expect(response.headers.get('allow')).toMatch(/GET|POST/)
})

test.each([undefined, 'Bearer', 'Bearer wrong', `Basic key-${CANARY}`])(
  'the authorization %j is a 401',
  async (given) => {
    const headers = given === undefined ? {} : { authorization: given }
    const response = await fetch(`${backend.url}/v1/models`, { headers })
    expect(response.status).toBe(401)
    expect(await response.json()).toMatchObject({ error: { code: 'invalid_api_key' } })
    expect((await fetch(`${backend.url}/health`, { headers })).status).toBe(200)
  },
)

test('a tier that is none is refused by name, and no tier is standard', async () => {
  const ask = (tier: Record<string, string>) =>
    fetch(`${backend.url}/v1/models`, { headers: { authorization, ...tier } })
  const refused = await ask({ 'x-tallygate-tier': 'express' })
  expect(refused.status).toBe(400)
  expect(await refused.json()).toMatchObject({ error: { param: 'x-tallygate-tier' } })
  expect((await ask({})).status).toBe(200)
})

test('a request id outside the grammar is replaced, one inside is kept', async () => {
  const ask = async (id: string) => {
    const headers = { authorization, 'x-request-id': id }
    const response = await fetch(`${backend.url}/v1/models`, { headers })
    return response.headers.get('x-request-id')
  }
  expect(await ask('req_Abc9')).toBe('req_Abc9')
  expect(await ask(`req_${CANARY}`)).toMatch(/^req_made/)
  expect(await ask(`req_${'x'.repeat(60)}`)).toMatch(/^req_made/)
})
