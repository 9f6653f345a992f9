import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type ModelBackend, startModelBackend } from '../../support/model-backend.ts'

const formats = ['gguf', 'folder'] as const

describe.each(formats)('a Llama with a SentencePiece vocabulary as %s', (format) => {
  let backend: ModelBackend
  let client: OpenAI
  let model: string

  beforeAll(async () => {
    backend = await startModelBackend({ seed: 3, vocabulary: 'pieces', format })
    client = new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
    model = (await client.models.list()).data[0]!.id
  })

  afterAll(async () => {
    expect(backend.faults).toEqual([])
    await backend.close()
  })

  test('answers, streamed as whole, with bytes that are the text', async () => {
    const request = {
      model,
      messages: [{ role: 'user' as const, content: 'wörld 😀 [INST] <s>' }],
      max_tokens: 40,
      seed: 5,
      logprobs: true,
    }
    const whole = await client.chat.completions.create(request)
    const stream = await client.chat.completions.create({ ...request, stream: true })
    let streamed = ''
    for await (const { choices } of stream) streamed += choices[0]?.delta.content ?? ''
    const [choice] = whole.choices
    expect(whole.usage?.completion_tokens).toBeGreaterThan(20)
    expect(streamed).toBe(choice?.message.content)
    const bytes = choice?.logprobs?.content?.flatMap((token) => token.bytes ?? []) ?? []
    const spelled = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(bytes))
    expect(spelled.startsWith(streamed)).toBe(true)
  })

  test('tells the text of an echoed prompt without the blank of the tokenizer', async () => {
    const prompt = 'the gateway'
    const [choice] = (
      await client.completions.create({ model, prompt, echo: true, logprobs: 0, max_tokens: 0 })
    ).choices
    expect(choice?.text).toBe(prompt)
    expect(choice?.logprobs?.tokens?.join('')).toBe(`<s> ${prompt}`)
    expect(choice?.logprobs?.text_offset?.slice(0, 2)).toEqual([0, 0])
  })

  test('keeps to a schema, byte by byte where it must', async () => {
    const schema = {
      type: 'object',
      properties: { city: { const: 'Zürich 😀' }, count: { type: 'integer', maximum: 9 } },
      required: ['city', 'count'],
      additionalProperties: false,
    }
    const { choices } = await client.chat.completions.create({
      model,
      messages: [{ role: 'user', content: 'Where?' }],
      max_tokens: 200,
      response_format: { type: 'json_schema', json_schema: { name: 'place', schema } },
    })
    const text = choices[0]?.message.content ?? ''
    expect(text.startsWith('{"city": "Zürich 😀", "count": ')).toBe(true)
  })
})
