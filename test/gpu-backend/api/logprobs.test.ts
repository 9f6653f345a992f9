import OpenAI from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ModelBackend, startModelBackend } from '../../support/model-backend.ts'

let backend: ModelBackend
let client: OpenAI
let model: string

beforeAll(async () => {
  backend = await startModelBackend({ seed: 5 })
  client = new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
  model = (await client.models.list()).data[0]!.id
})

afterAll(async () => {
  expect(backend.faults).toEqual([])
  await backend.close()
})

const chat = {
  messages: [{ role: 'user' as const, content: 'Hi' }],
  max_tokens: 12,
  seed: 3,
  logprobs: true,
  top_logprobs: 4,
}

test('chat tells each token of the answer, whole and streamed alike', async () => {
  const { choices, usage } = await client.chat.completions.create({ ...chat, model })
  const { logprobs, message } = choices[0]!
  const content = logprobs!.content!
  expect(logprobs!.refusal).toBeNull()
  expect(content).toHaveLength(usage!.completion_tokens)
  const bytes = content.flatMap((token) => token.bytes!)
  expect(
    Buffer.from(bytes)
      .toString()
      .startsWith(message.content!.replace(/\uFFFD.*$/s, '')),
  ).toBe(true)
  for (const { token, logprob, bytes, top_logprobs } of content) {
    expect(logprob).toBeLessThanOrEqual(top_logprobs[0]!.logprob)
    expect(top_logprobs).toHaveLength(4)
    if (!token.startsWith('bytes:')) expect(Buffer.from(bytes!).toString()).toBe(token)
  }
  const streamed = []
  const stream = await client.chat.completions.create({ ...chat, model, stream: true })
  for await (const chunk of stream) streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []))
  expect(streamed).toEqual(content)
})

test('the greedy token is the likeliest, and bias does not change what is told', async () => {
  const greedy = { ...chat, model, temperature: 0 }
  const free = await client.chat.completions.create(greedy)
  const [first] = free.choices[0]!.logprobs!.content!
  expect(first!.top_logprobs[0]!.token).toBe(first!.token)
  const id = 3 + 'A'.charCodeAt(0)
  const forced = await client.chat.completions.create({ ...greedy, logit_bias: { [id]: 100 } })
  const [biased] = forced.choices[0]!.logprobs!.content!
  expect(biased!.token).toBe('A')
  expect(biased!.top_logprobs).toEqual(first!.top_logprobs)
})

/** Longer than a chunk of the prompt. */
const prompt = 'The tide came in at noon, and nobody on the quay had an answer. '.repeat(3)

test('an echoed prompt of no answer tells what the model thinks of it', async () => {
  const ask = { model, prompt, echo: true, max_tokens: 0, logprobs: 1 }
  const { choices, usage } = await client.completions.create(ask)
  expect(choices[0]).toMatchObject({ text: prompt, finish_reason: 'length' })
  expect(usage).toMatchObject({ completion_tokens: 0 })
  const { tokens, token_logprobs, top_logprobs, text_offset } = choices[0]!.logprobs!
  expect(tokens).toHaveLength(usage!.prompt_tokens)
  expect(tokens!.join('')).toBe(prompt)
  expect([token_logprobs![0], top_logprobs![0]]).toEqual([null, null])
  expect(text_offset).toEqual(tokens!.map((_, i) => tokens!.slice(0, i).join('').length))
  tokens!.slice(1).forEach((token, i) => {
    expect(top_logprobs![i + 1]![token]).toBe(token_logprobs![i + 1])
  })
})

test('what is told of a text is the same whether it was a prompt or an answer', async () => {
  const asked = { model, temperature: 0, logprobs: 2, max_tokens: 8 }
  const answer = await client.completions.create({ ...asked, prompt: 'The tide', echo: true })
  const told = answer.choices[0]!.logprobs!
  expect(told.tokens).toHaveLength(answer.usage!.total_tokens)
  const text = answer.choices[0]!.text
  if (text.includes('\uFFFD')) throw new Error('choose another seed: the answer is no text')
  const again = await client.completions.create({
    ...asked,
    prompt: 'The tide',
    max_tokens: 1,
    echo: true,
  })
  again.choices[0]!.logprobs!.token_logprobs!.forEach((value, i) => {
    if (value === null) expect(told.token_logprobs![i]).toBeNull()
    else expect(told.token_logprobs![i]).toBeCloseTo(value, 5)
  })
})

test('a prompt that is in the prefix cache has all of its own told', async () => {
  const long = 'the cat and the hat in the rain '.repeat(8)
  const asked = { model, temperature: 0, prompt: long, max_tokens: 2 }
  await client.completions.create(asked)
  const cached = await client.completions.create(asked)
  expect(cached.usage!.prompt_tokens_details!.cached_tokens).toBeGreaterThan(0)
  const measured = await client.completions.create({ ...asked, logprobs: 1, echo: true })
  expect(measured.usage!.prompt_tokens_details!.cached_tokens).toBe(0)
  const { token_logprobs: told } = measured.choices[0]!.logprobs!
  expect(told).toHaveLength(measured.usage!.total_tokens)
  expect(told!.slice(1).every((value) => value !== null && value <= 0)).toBe(true)
})

test('without logprobs none are told', async () => {
  const { choices } = await client.completions.create({ model, prompt, echo: true, max_tokens: 1 })
  expect(choices[0]!.logprobs).toBeNull()
})
