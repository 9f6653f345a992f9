import fc from 'fast-check'
import OpenAI from 'openai'
import { zodResponseFormat } from 'openai/helpers/zod'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { anySchema, isValid } from '../../support/json-schemas.ts'
import { type ModelBackend, startModelBackend } from '../../support/model-backend.ts'

/** Weights are random: what is well-formed here is so by the grammar alone. */
let backend: ModelBackend
let client: OpenAI
let model: string

beforeAll(async () => {
  backend = await startModelBackend({ seed: 5, config: { contextLength: 2048 } })
  client = new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
  model = (await client.models.list()).data[0]!.id
})

afterAll(async () => {
  expect(backend.faults).toEqual([])
  await backend.close()
})

const messages = [{ role: 'user' as const, content: 'Hi' }]

/** Ends strings, lists and objects often, so that a random model comes to an end. */
const CLOSERS = { '"': 6, '}': 6, ']': 6 }
const logit_bias = Object.fromEntries(
  Object.entries(CLOSERS).map(([char, bias]) => [3 + char.charCodeAt(0), bias]),
)

test('every answer to a schema that is not cut parses and is valid', async () => {
  let endedCount = 0
  await fc.assert(
    fc.asyncProperty(anySchema, fc.nat(), async (schema, seed) => {
      const { choices } = await client.chat.completions.create({
        model,
        messages,
        seed,
        temperature: 1.2,
        logit_bias,
        max_tokens: 200,
        n: 2,
        response_format: { type: 'json_schema', json_schema: { name: 'it', strict: true, schema } },
      })
      for (const { message, finish_reason } of choices) {
        if (finish_reason === 'length') continue
        endedCount++
        const value = JSON.parse(message.content!)
        expect(isValid(schema, value), `${JSON.stringify(schema)}: ${message.content}`).toBe(true)
      }
    }),
    { numRuns: 40, seed: 7 },
  )
  expect(endedCount).toBeGreaterThan(40)
})

test('the zod helper of the openai package gets what it asks for', async () => {
  const schema = z.object({
    city: z.enum(['Oslo', 'Rome']),
    degrees: z.int().min(-40).max(50),
    tags: z.array(z.enum(['wet', 'dry'])).max(3),
    wind: z.union([z.boolean(), z.null()]),
  })
  const { choices } = await client.chat.completions.parse({
    model,
    messages,
    seed: 1,
    response_format: zodResponseFormat(schema, 'weather'),
  })
  expect(choices[0]?.finish_reason).toBe('stop')
  expect(schema.parse(choices[0]?.message.parsed)).toEqual(JSON.parse(choices[0]!.message.content!))
})

test('json_object gives an object', async () => {
  const { choices } = await client.chat.completions.create({
    model,
    messages,
    seed: 3,
    logit_bias,
    response_format: { type: 'json_object' },
  })
  expect(choices[0]?.finish_reason).toBe('stop')
  expect(JSON.parse(choices[0]!.message.content!)).toBeTypeOf('object')
})

const tools = ['look_up', 'add'].map((name) => ({
  type: 'function' as const,
  function: {
    name,
    description: 'A tool.',
    parameters: {
      type: 'object',
      properties: {
        key: { type: 'string', enum: ['</tool_call>', 'a"b', 'ü'] },
        count: { type: 'integer', minimum: 1, maximum: 99 },
      },
      required: ['key'],
    },
  },
}))
const named = { type: 'function', function: { name: 'add' } } as const

test.each([
  ['required', 'required', ['look_up', 'add']],
  ['named', named, ['add']],
] as const)(
  'tool_choice %s gives well-formed calls, whole and streamed',
  async (_, tool_choice, names) => {
    for (const seed of [1, 2, 3]) {
      const request = { model, messages, tools, tool_choice, seed, max_tokens: 400 }
      const { choices, usage } = await client.chat.completions.create(request)
      const { message, finish_reason } = choices[0]!
      expect(finish_reason).toBe('tool_calls')
      expect(message.content).toBeNull()
      expect(message.tool_calls!.length).toBeGreaterThan(0)
      for (const call of message.tool_calls!) {
        if (call.type !== 'function') throw new Error('not a function')
        expect(call.id).toMatch(/^call_\w+$/)
        expect(names).toContain(call.function.name)
        const values = JSON.parse(call.function.arguments)
        expect(isValid(tools[0]!.function.parameters, values), call.function.arguments).toBe(true)
      }
      const streamed = await readStream(request)
      expect(streamed.calls).toEqual(
        message.tool_calls!.map((call) => 'function' in call && call.function),
      )
      expect(streamed).toMatchObject({ content: '', finishReason: 'tool_calls' })
      // The token that ends an answer has no frame of its own.
      expect(streamed.frameCount).toBe(usage!.completion_tokens - 1)
    }
  },
)

async function readStream(request: OpenAI.Chat.ChatCompletionCreateParamsNonStreaming) {
  const stream = await client.chat.completions.create({ ...request, stream: true })
  const calls: { name: string; arguments: string }[] = []
  let content = ''
  let frameCount = 0
  let finishReason: string | null = null
  for await (const { choices } of stream) {
    const { delta, finish_reason } = choices[0]!
    content += delta.content ?? ''
    for (const { index, id, type, function: called } of delta.tool_calls ?? []) {
      if (calls[index] === undefined) {
        expect({ index, type, id }).toEqual({
          index: calls.length,
          type: 'function',
          id: expect.stringMatching(/^call_\w+$/),
        })
        calls.push({ name: called!.name!, arguments: '' })
      }
      calls[index]!.arguments += called?.arguments ?? ''
    }
    finishReason = finish_reason
    const isToken = delta.content !== undefined || delta.tool_calls !== undefined
    if (finish_reason === null && delta.role === undefined) {
      expect(isToken).toBe(true)
      frameCount++
    }
  }
  return { calls, content, frameCount, finishReason }
}

test('an answer that may call tools is free until it begins a call', async () => {
  const request = { model, messages, tools, seed: 1, max_tokens: 20 }
  const { choices } = await client.chat.completions.create(request)
  expect(choices[0]).toMatchObject({ finish_reason: 'length' })
  expect(choices[0]!.message.content).not.toBe('')
  expect(choices[0]!.message.tool_calls).toBeUndefined()
  expect((await readStream(request)).content).toBe(choices[0]!.message.content)
})

test('a schema and optional tools together: the answer is one or the other', async () => {
  const { choices } = await client.chat.completions.create({
    model,
    messages,
    tools,
    seed: 2,
    response_format: {
      type: 'json_schema',
      json_schema: { name: 'n', schema: { type: 'integer', minimum: 0, maximum: 9 } },
    },
  })
  const { message, finish_reason } = choices[0]!
  if (finish_reason === 'tool_calls') expect(message.content).toBeNull()
  else expect(message.content).toMatch(/^\d$/)
})

test('calls and results of earlier turns are taken', async () => {
  const { usage } = await client.chat.completions.create({
    model,
    tools,
    max_tokens: 1,
    messages: [
      ...messages,
      {
        role: 'assistant',
        tool_calls: [
          { id: 'call_1', type: 'function', function: { name: 'add', arguments: '{"key":"ü"}' } },
        ],
      },
      { role: 'tool', tool_call_id: 'call_1', content: '3' },
    ],
  })
  expect(usage!.prompt_tokens).toBeGreaterThan(100)
})
