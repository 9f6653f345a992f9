import OpenAI from 'openai'
import { zodTextFormat } from 'openai/helpers/zod'
import type { ResponseStreamEvent } from 'openai/resources/responses/responses'
import { beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { CALLS, say } from '../support/scripted-answers.ts'
import { useScriptedGateway } from '../support/scripted-gateway.ts'

let openai: OpenAI

const { upstream, gateway } = useScriptedGateway({
  plain: { script: say({ content: 'It is Paris.' }, 'stop') },
  short: { script: say({ content: 'It is' }, 'length') },
  json: { script: say({ content: '{"city":"Paris"}' }, 'stop') },
  caller: { script: say({ content: 'Let me look. ', tool_calls: CALLS }, 'tool_calls') },
})

beforeAll(() => {
  openai = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey: gateway.apiKey, maxRetries: 0 })
})

const input = 'What is the capital of France?'
const tools = [
  {
    type: 'function' as const,
    name: 'weather',
    description: 'Tells the weather.',
    parameters: { type: 'object', properties: { city: { type: 'string' } } },
    strict: null,
  },
]
const lastBody = () => upstream.exchanges.at(-1)!.body
const settled = async () => (await gateway.settledUsage([upstream.exchanges.at(-1)!.requestId]))[0]

test('answers a text whole, and bills it as what it is', async () => {
  const response = await openai.responses.create({
    model: 'plain',
    instructions: 'Be brief.',
    input,
    max_output_tokens: 20,
    temperature: 0.5,
    metadata: { a: 'b' },
  })
  expect(response).toMatchObject({
    object: 'response',
    status: 'completed',
    output_text: 'It is Paris.',
    error: null,
    store: false,
    metadata: { a: 'b' },
    usage: {
      input_tokens: 9,
      input_tokens_details: { cached_tokens: 4 },
      output_tokens: 3,
      output_tokens_details: { reasoning_tokens: 1 },
      total_tokens: 12,
    },
  })
  expect(lastBody()).toEqual({
    model: 'plain',
    messages: [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: input },
    ],
    max_tokens: 20,
    temperature: 0.5,
  })
  expect(response.id).toBe(upstream.exchanges.at(-1)!.requestId.replace('req_', 'resp_'))
  expect(await settled()).toMatchObject({
    endpoint: 'responses',
    outcome: 'completed',
    prompt_tokens: 9,
    completion_tokens: 3,
  })
  const receipt = await gateway.call(`/v1/receipts/${response.id}`)
  expect(receipt.status).toBe(200)
})

test('an answer says all that it was asked with, and what stands for the rest', async () => {
  const asked = { presence_penalty: 0.5, safety_identifier: 'someone', prompt_cache_key: 'some' }
  const [tool] = tools
  const answer = await gateway.call('/v1/responses', {
    method: 'POST',
    json: {
      model: 'plain',
      input,
      ...asked,
      tools: [{ type: 'function', name: tool!.name }],
    },
  })
  expect(await answer.json()).toMatchObject({
    ...asked,
    frequency_penalty: 0,
    temperature: 1,
    top_p: 1,
    tools: [
      { type: 'function', name: tool!.name, description: null, parameters: null, strict: null },
    ],
  })
  expect(lastBody()).toMatchObject({ presence_penalty: 0.5 })
  expect(lastBody()).not.toHaveProperty('temperature')
})

test('a whole conversation of items goes to the model in its order', async () => {
  await openai.responses.create({
    model: 'plain',
    input: [
      { role: 'developer', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'input_text', text: 'How is ' },
          { type: 'input_text', text: 'Rome?' },
        ],
      },
      {
        id: 'msg_1',
        type: 'message',
        role: 'assistant',
        status: 'completed',
        content: [{ type: 'output_text', text: 'Let me look.', annotations: [], logprobs: [] }],
      },
      { type: 'function_call', call_id: 'c1', name: 'weather', arguments: '{}' },
      { type: 'function_call', call_id: 'c2', name: 'weather', arguments: '{"city":"Oslo"}' },
      { type: 'function_call_output', call_id: 'c1', output: 'sunny' },
      { type: 'function_call_output', call_id: 'c2', output: 'rain' },
    ],
    tools,
    tool_choice: { type: 'function', name: 'weather' },
    parallel_tool_calls: false,
  })
  const { description, parameters, strict } = tools[0]!
  expect(lastBody()).toEqual({
    model: 'plain',
    max_tokens: 4_096,
    messages: [
      { role: 'developer', content: 'Be brief.' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'How is ' },
          { type: 'text', text: 'Rome?' },
        ],
      },
      {
        role: 'assistant',
        content: 'Let me look.',
        tool_calls: [
          { id: 'c1', type: 'function', function: { name: 'weather', arguments: '{}' } },
          {
            id: 'c2',
            type: 'function',
            function: { name: 'weather', arguments: '{"city":"Oslo"}' },
          },
        ],
      },
      { role: 'tool', tool_call_id: 'c1', content: 'sunny' },
      { role: 'tool', tool_call_id: 'c2', content: 'rain' },
    ],
    tools: [{ type: 'function', function: { name: 'weather', description, parameters, strict } }],
    tool_choice: { type: 'function', function: { name: 'weather' } },
    parallel_tool_calls: false,
  })
})

test('what a token limit cut is incomplete', async () => {
  const whole = await openai.responses.create({ model: 'short', input })
  const runner = openai.responses.stream({ model: 'short', input })
  const types: string[] = []
  for await (const { type } of runner) types.push(type)
  for (const response of [whole, await runner.finalResponse()]) {
    expect(response).toMatchObject({
      status: 'incomplete',
      incomplete_details: { reason: 'max_output_tokens' },
      output: [{ status: 'incomplete' }],
    })
  }
  expect(types.at(-1)).toBe('response.incomplete')
})

test('structured output is asked for and parsed by the official helper', async () => {
  const format = zodTextFormat(z.object({ city: z.string() }), 'place')
  const response = await openai.responses.parse({ model: 'json', input, text: { format } })
  expect(response.output_parsed).toEqual({ city: 'Paris' })
  expect(lastBody().response_format).toMatchObject({
    type: 'json_schema',
    json_schema: { name: 'place', strict: true, schema: { type: 'object' } },
  })
})

async function readEvents(body: OpenAI.Responses.ResponseCreateParamsStreaming) {
  const events: ResponseStreamEvent[] = []
  for await (const event of await openai.responses.create(body)) events.push(event)
  return events
}

test('a stream tells of text in OpenAI’s events and order, numbered from 0', async () => {
  const events = await readEvents({ model: 'plain', input, stream: true })
  expect(events.map(({ type }) => type)).toEqual([
    'response.created',
    'response.in_progress',
    'response.output_item.added',
    'response.content_part.added',
    'response.output_text.delta',
    'response.output_text.delta',
    'response.output_text.delta',
    'response.output_text.done',
    'response.content_part.done',
    'response.output_item.done',
    'response.completed',
  ])
  expect(events.map(({ sequence_number }) => sequence_number)).toEqual([...events.keys()])
  const itemId = (events[2] as { item: { id: string } }).item.id
  for (const event of events.slice(3, 9))
    expect(event).toMatchObject({ item_id: itemId, output_index: 0, content_index: 0 })
  expect(events[7]).toMatchObject({ text: 'It is Paris.' })
  expect(events.at(-1)).toMatchObject({
    response: { status: 'completed', output: [{ id: itemId }], usage: { total_tokens: 12 } },
  })
  expect(lastBody().stream_options).toEqual({ include_usage: true })
  expect(await settled()).toMatchObject({ outcome: 'completed', completion_tokens: 3 })
})

test('calls of functions come whole and streamed, after the text before them', async () => {
  const runner = openai.responses.stream({ model: 'caller', input, tools })
  const types: string[] = []
  for await (const { type } of runner) types.push(type)
  const streamed = await runner.finalResponse()
  const whole = await openai.responses.create({ model: 'caller', input, tools })
  for (const { output, status } of [streamed, whole]) {
    expect(status).toBe('completed')
    expect(output).toMatchObject([
      { type: 'message', content: [{ text: 'Let me look. ' }] },
      ...CALLS.map(({ id, function: { arguments: args } }) => ({
        type: 'function_call',
        call_id: id,
        name: 'weather',
        arguments: args,
        status: 'completed',
      })),
    ])
  }
  expect(types.filter((type) => type === 'response.function_call_arguments.done')).toHaveLength(2)
  expect(types.indexOf('response.content_part.done')).toBeLessThan(
    types.indexOf('response.function_call_arguments.delta'),
  )
})

test('a conversation goes on from a kept response, for its own key alone, until it is forgotten', async () => {
  const first = await openai.responses.create({ model: 'plain', input, store: true })
  expect(first).toMatchObject({ store: true })
  expect(await openai.responses.retrieve(first.id)).toMatchObject({ output_text: 'It is Paris.' })
  const previous = { previous_response_id: first.id, store: true }
  const runner = openai.responses.stream({ model: 'caller', input: 'And?', tools, ...previous })
  const second = await runner.finalResponse()
  expect(lastBody().messages).toEqual([
    { role: 'user', content: input },
    { role: 'assistant', content: 'It is Paris.' },
    { role: 'user', content: 'And?' },
  ])
  await openai.responses.create({
    model: 'plain',
    previous_response_id: second.id,
    input: CALLS.map(({ id }) => ({
      type: 'function_call_output' as const,
      call_id: id,
      output: 'sunny',
    })),
  })
  expect(lastBody().messages.slice(3)).toMatchObject([
    { role: 'assistant', content: 'Let me look. ', tool_calls: [{}, {}] },
    { role: 'tool', content: 'sunny' },
    { role: 'tool' },
  ])

  const { api_key: apiKey } = await gateway.admin('POST', `/accounts/${gateway.accountId}/keys`, {
    name: 'stranger',
  })
  const stranger = new OpenAI({ baseURL: `${gateway.url}/v1`, apiKey, maxRetries: 0 })
  const unknown = { status: 404, code: 'not_found' }
  await expect(stranger.responses.retrieve(first.id)).rejects.toMatchObject(unknown)
  await expect(stranger.responses.delete(first.id)).rejects.toMatchObject(unknown)
  await expect(
    stranger.responses.create({ model: 'plain', input, previous_response_id: first.id }),
  ).rejects.toMatchObject({ ...unknown, param: 'previous_response_id' })

  await openai.responses.delete(first.id)
  await expect(openai.responses.retrieve(first.id)).rejects.toMatchObject(unknown)
  expect((await openai.responses.retrieve(second.id)).id).toBe(second.id)
})

test('nothing is kept that was not asked to be', async () => {
  const { id } = await openai.responses.create({ model: 'plain', input })
  await expect(openai.responses.retrieve(id)).rejects.toMatchObject({ status: 404 })
})

test('an Idempotency-Key holds for the request as it was sent', async () => {
  const ask = (metadata: object) =>
    gateway.call('/v1/responses', {
      json: { model: 'plain', input, stream: true, metadata },
      headers: { 'idempotency-key': 'responses-1' },
    })
  const first = await (await ask({})).text()
  expect(await (await ask({})).text()).toBe(first)
  expect((await ask({ a: 'b' })).status).toBe(409)
})

test.each<[object, string, string]>([
  [{ input: undefined }, 'invalid_request', 'input'],
  [{ input: [{ role: 'user', content: 5 }] }, 'invalid_request', 'input[0].content'],
  [{ input: [{ role: 'owner', content: 'x' }] }, 'invalid_request', 'input[0].role'],
  [
    { input: [{ type: 'function_call', call_id: 'x', name: 'f' }] },
    'invalid_request',
    'input[0].arguments',
  ],
  [{ tools: [{ type: 'function', name: 'a b' }] }, 'invalid_request', 'tools[0].name'],
  [{ previous_response_id: 'x' }, 'invalid_request', 'previous_response_id'],
  [
    { input: [{ role: 'user', content: [{ type: 'input_image', image_url: 'x' }] }] },
    'unsupported_parameter',
    'input[0].content[0].type',
  ],
  [{ input: [{ type: 'reasoning' }] }, 'unsupported_parameter', 'input[0].type'],
  [{ tools: [{ type: 'web_search' }] }, 'unsupported_parameter', 'tools[0].type'],
  [{ tool_choice: { type: 'mcp' } }, 'unsupported_parameter', 'tool_choice.type'],
  [{ background: true }, 'unsupported_parameter', 'background'],
  [{ conversation: 'conv_1' }, 'unsupported_parameter', 'conversation'],
  [{ reasoning: { effort: 'high' } }, 'unsupported_parameter', 'reasoning.effort'],
  [{ include: ['message.output_text.logprobs'] }, 'unsupported_parameter', 'include[0]'],
  [{ text: { verbosity: 'low' } }, 'unsupported_parameter', 'text.verbosity'],
  [{ truncation: 'auto' }, 'unsupported_parameter', 'truncation'],
  [{ service_tier: 'scale' }, 'invalid_request', 'service_tier'],
  [{ something_new: 1 }, 'unsupported_parameter', 'something_new'],
])('what cannot be done is refused by its name: %j', async (fields, code, param) => {
  const count = upstream.exchanges.length
  const response = await gateway.call('/v1/responses', {
    json: { model: 'plain', input, ...fields },
  })
  expect([response.status, await response.json()]).toMatchObject([400, { error: { code, param } }])
  expect(upstream.exchanges).toHaveLength(count)
})

test('what asks for nothing is let through', async () => {
  const harmless = {
    background: false,
    include: ['reasoning.encrypted_content'],
    reasoning: { effort: null, summary: 'auto' },
    service_tier: 'auto',
    truncation: 'disabled',
    prompt_cache_key: 'x',
    conversation: null,
  }
  const response = await gateway.call('/v1/responses', {
    json: { model: 'plain', input, ...harmless },
  })
  expect(response.status).toBe(200)
})
