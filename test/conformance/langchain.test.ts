import { type AIMessageChunk, HumanMessage, type ToolMessage } from '@langchain/core/messages'
import { tool } from '@langchain/core/tools'
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { citySchema, QUESTION, type ServedStack, serveStack } from '../support/conformance.ts'

let served: ServedStack

beforeAll(async () => {
  served = await serveStack()
})
afterAll(() => served?.close())

const common = () => ({
  apiKey: served.apiKey,
  configuration: { baseURL: served.baseURL },
  maxRetries: 0,
})
const chat = (maxTokens = 8) =>
  new ChatOpenAI({ ...common(), model: served.model, maxTokens, temperature: 0 })

test('invoke and stream give the same answer and usage', async () => {
  const whole = await chat().invoke(QUESTION)
  expect(whole).toMatchObject({ usage_metadata: { output_tokens: 8 } })
  let text = ''
  let gathered: AIMessageChunk | undefined
  for await (const chunk of await chat().stream(QUESTION)) {
    text += chunk.text
    gathered = gathered?.concat(chunk) ?? chunk
  }
  expect(text).toBe(whole.text)
  expect(gathered).toMatchObject({ usage_metadata: { output_tokens: 8 } })
})

test('batch answers each prompt', async () => {
  const answers = await chat().batch([QUESTION, 'And of Italy?', QUESTION])
  expect(answers[2]!.text).toBe(answers[0]!.text)
})

test('structured output fits its schema, by JSON schema and by a tool', async () => {
  for (const method of ['jsonSchema', 'functionCalling'] as const) {
    const city = await chat(200)
      .withStructuredOutput(citySchema, { name: 'city', method })
      .invoke(QUESTION)
    expect(citySchema.safeParse(city).success).toBe(true)
  }
})

test('a bound tool is called, and its result is taken back', async () => {
  const lookUp = tool(({ city }) => `${city} has 2 million people.`, {
    name: 'look_up',
    description: 'Looks a city up.',
    schema: z.object({ city: z.enum(['Paris', 'Rome']) }),
  })
  const question = new HumanMessage(QUESTION)
  const calling = await chat(200)
    .bindTools([lookUp], { tool_choice: 'required' })
    .invoke([question])
  const [call] = calling.tool_calls ?? []
  expect(call?.name).toBe('look_up')
  const result: ToolMessage = await lookUp.invoke({ ...call!, type: 'tool_call' })
  const answer = await chat().invoke([question, calling, result])
  expect(answer).toMatchObject({ usage_metadata: { output_tokens: 8 } })
})

test('the completion model and embeddings work', async () => {
  const llm = new OpenAI({ ...common(), model: served.model, maxTokens: 8, temperature: 0 })
  expect(await llm.invoke(QUESTION)).toEqual(expect.any(String))
  const embeddings = new OpenAIEmbeddings({ ...common(), model: served.model })
  const [a, b] = await embeddings.embedDocuments(['a', 'b'])
  expect(Math.hypot(...a!)).toBeCloseTo(1, 5)
  expect(b).toHaveLength(a!.length)
})

test('an unknown model is an error with its code', async () => {
  const lost = new ChatOpenAI({ ...common(), model: 'none' })
  await expect(lost.invoke(QUESTION)).rejects.toMatchObject({ status: 404 })
})
