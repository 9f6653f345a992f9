import OpenAI from 'openai'
import { zodResponseFormat } from 'openai/helpers/zod'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { citySchema, QUESTION, type ServedStack, serveStack } from '../support/conformance.ts'
import { settledUsage } from '../support/installation.ts'

let served: ServedStack
let client: OpenAI

beforeAll(async () => {
  served = await serveStack()
  client = new OpenAI({ baseURL: served.baseURL, apiKey: served.apiKey, maxRetries: 0 })
})
afterAll(() => served?.close())

const messages = [{ role: 'user' as const, content: QUESTION }]
const ask = () => ({ model: served.model, messages, max_tokens: 8, temperature: 0 })
const tool = {
  type: 'function' as const,
  function: {
    name: 'look_up',
    description: 'Looks a city up.',
    strict: true,
    parameters: {
      type: 'object',
      properties: { city: { enum: ['Paris', 'Rome'] } },
      required: ['city'],
      additionalProperties: false,
    },
  },
}

test('a chat answer has the shape that the client types promise', async () => {
  const answer = await client.chat.completions.create({ ...ask(), n: 2 })
  expect(answer).toMatchObject({ object: 'chat.completion', model: served.model })
  expect(answer.choices.map(({ index }) => index)).toEqual([0, 1])
  for (const { message, logprobs, finish_reason } of answer.choices) {
    expect(message).toMatchObject({ role: 'assistant', refusal: null })
    expect(logprobs).toBeNull()
    expect(finish_reason).toBe('length')
  }
  expect(answer.usage).toMatchObject({ completion_tokens: 16 })
  expect(answer.usage!.total_tokens).toBe(answer.usage!.prompt_tokens + 16)
})

test('the stream helper gathers the same answer, with usage when it is asked for', async () => {
  const plain = await client.chat.completions.create(ask())
  const runner = client.chat.completions.stream({
    ...ask(),
    stream_options: { include_usage: true },
  })
  const created = new Set<number>()
  for await (const chunk of runner) created.add(chunk.created)
  const gathered = await runner.finalChatCompletion()
  expect(gathered.choices[0]!.message.content).toBe(plain.choices[0]!.message.content)
  expect(gathered.usage?.completion_tokens).toBe(plain.usage?.completion_tokens)
  expect(created.size).toBe(1)
})

test('parse() finds what the schema asked for', async () => {
  const { choices } = await client.chat.completions.parse({
    ...ask(),
    max_tokens: 200,
    response_format: zodResponseFormat(citySchema, 'city'),
  })
  expect(citySchema.safeParse(choices[0]!.message.parsed).success).toBe(true)
})

test('a tool that must be called is called with arguments that fit', async () => {
  const { choices } = await client.chat.completions.create({
    ...ask(),
    max_tokens: 200,
    tools: [tool],
    tool_choice: { type: 'function', function: { name: 'look_up' } },
  })
  const call = choices[0]!.message.tool_calls?.[0]
  expect(call?.type).toBe('function')
  const { name, arguments: json } = (call as { function: { name: string; arguments: string } })
    .function
  expect(name).toBe('look_up')
  expect(['Paris', 'Rome']).toContain(JSON.parse(json).city)

  const followUp = await client.chat.completions.create({
    ...ask(),
    messages: [
      ...messages,
      choices[0]!.message,
      { role: 'tool', tool_call_id: call!.id, content: '{"population": 2000000}' },
    ],
  })
  expect(followUp.choices[0]!.message.content).toEqual(expect.any(String))
})

test('log probabilities come beside each token', async () => {
  const { choices } = await client.chat.completions.create({
    ...ask(),
    logprobs: true,
    top_logprobs: 3,
  })
  const tokens = choices[0]!.logprobs!.content!
  expect(tokens).toHaveLength(8)
  for (const { logprob, top_logprobs } of tokens) {
    expect(logprob).toBeLessThanOrEqual(0)
    expect(top_logprobs).toHaveLength(3)
  }
})

test('legacy completions score a given text: echo, logprobs, no tokens', async () => {
  const { choices, usage } = await client.completions.create({
    model: served.model,
    prompt: QUESTION,
    max_tokens: 0,
    echo: true,
    logprobs: 1,
  })
  expect(choices[0]!.text).toBe(QUESTION)
  const { token_logprobs, tokens, text_offset } = choices[0]!.logprobs!
  expect(token_logprobs![0]).toBeNull()
  expect(tokens).toHaveLength(token_logprobs!.length)
  expect(text_offset![0]).toBe(0)
  expect(usage?.completion_tokens).toBe(0)
})

test('embeddings come as floats, though the client asks for base64', async () => {
  const { data } = await client.embeddings.create({ model: served.model, input: ['a', 'b'] })
  expect(data.map(({ index }) => index)).toEqual([0, 1])
  const length = Math.hypot(...data[0]!.embedding)
  expect(length).toBeCloseTo(1, 5)
})

test('models are listed and found, adapters with their parent', async () => {
  const listed: string[] = []
  for await (const { id } of client.models.list()) listed.push(id)
  expect(listed).toEqual(expect.arrayContaining([served.model, 'ada-1']))
  expect(await client.models.retrieve('ada-1')).toMatchObject({ id: 'ada-1', object: 'model' })
})

test('errors are of the class that the client has for them', async () => {
  await expect(client.chat.completions.create({ ...ask(), model: 'none' })).rejects.toBeInstanceOf(
    OpenAI.NotFoundError,
  )
  await expect(client.chat.completions.create({ ...ask(), temperature: 9 })).rejects.toMatchObject({
    status: 400,
    param: 'temperature',
  })
  const stranger = client.withOptions({ apiKey: 'tg_wrong' })
  await expect(stranger.models.list()).rejects.toBeInstanceOf(OpenAI.AuthenticationError)
})

test('an aborted stream throws nothing, and is billed for what was made', async () => {
  const stream = await client.chat.completions.create({ ...ask(), max_tokens: 400, stream: true })
  let count = 0
  for await (const _ of stream) if (++count === 4) stream.controller.abort()
  const usage = await settledUsage(served.stack)
  const aborted = usage.filter(({ outcome }) => outcome === 'client_aborted')
  expect(aborted).toHaveLength(1)
  expect(aborted[0]!.completion_tokens).toBeGreaterThanOrEqual(3)
  expect(aborted[0]!.completion_tokens).toBeLessThan(400)
})
