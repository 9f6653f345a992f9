import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import {
  APICallError,
  embedMany,
  generateText,
  type LanguageModel,
  Output,
  stepCountIs,
  streamText,
  tool,
} from 'ai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { z } from 'zod'
import { citySchema, QUESTION, type ServedStack, serveStack } from '../support/conformance.ts'
import { settledUsage } from '../support/installation.ts'

let served: ServedStack

beforeAll(async () => {
  served = await serveStack()
})
afterAll(() => served?.close())

const openai = () => createOpenAI({ baseURL: served.baseURL, apiKey: served.apiKey })
const compatible = () =>
  createOpenAICompatible({
    name: 'tallygate',
    baseURL: served.baseURL,
    apiKey: served.apiKey,
    includeUsage: true,
    supportsStructuredOutputs: true,
  })
/** Both providers that the SDK has for such a gateway. */
const models = () => [openai().chat(served.model), compatible().chatModel(served.model)]
const ask = { prompt: QUESTION, maxOutputTokens: 8, temperature: 0, maxRetries: 0 }

async function expectSameWholeAndStreamed(model: LanguageModel, maxOutputTokens: number) {
  const whole = await generateText({ ...ask, model, maxOutputTokens })
  expect(whole.finishReason).toBe('length')
  expect(whole.usage.outputTokens).toBe(maxOutputTokens)
  const stream = streamText({ ...ask, model, maxOutputTokens })
  let text = ''
  for await (const delta of stream.textStream) text += delta
  expect(text).toBe(whole.text)
  expect((await stream.totalUsage).outputTokens).toBe(maxOutputTokens)
}

async function expectFittingOutput(model: LanguageModel) {
  const { output } = await generateText({
    ...ask,
    model,
    maxOutputTokens: 200,
    output: Output.object({ schema: citySchema }),
  })
  expect(citySchema.safeParse(output).success).toBe(true)
}

test('generateText and streamText give the same answer and usage', async () => {
  for (const model of models()) await expectSameWholeAndStreamed(model, 8)
})

test('the default model, which speaks the Responses API, does the same', async () => {
  const model = openai()(served.model)
  await expectSameWholeAndStreamed(model, 16)
  await expectFittingOutput(model)
})

test('structured output fits its schema', async () => {
  for (const model of models()) await expectFittingOutput(model)
})

test('a tool is called, its result goes back, and the answer follows', async () => {
  for (const model of models()) {
    const { steps } = await generateText({
      ...ask,
      model,
      maxOutputTokens: 200,
      tools: {
        lookUp: tool({
          description: 'Looks a city up.',
          inputSchema: z.object({ city: z.enum(['Paris', 'Rome']) }),
          execute: ({ city }) => Promise.resolve(`${city} has 2 million people.`),
        }),
      },
      providerOptions: {
        openai: { parallelToolCalls: false },
        tallygate: { parallel_tool_calls: false },
      },
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
      stopWhen: stepCountIs(2),
    })
    expect(steps[0]!.toolCalls[0]).toMatchObject({ toolName: 'lookUp' })
    expect(steps[0]!.toolResults[0]?.output).toMatch(/^(Paris|Rome) has/)
    expect(steps).toHaveLength(2)
    expect(steps[1]!.toolCalls).toEqual([])
  }
})

test('embedMany and the legacy completion model work', async () => {
  const { embeddings } = await embedMany({
    model: openai().embedding(served.model),
    values: ['a', 'b'],
    maxRetries: 0,
  })
  expect(embeddings).toHaveLength(2)
  expect(Math.hypot(...embeddings[0]!)).toBeCloseTo(1, 5)
  const { usage } = await generateText({ ...ask, model: openai().completion(served.model) })
  expect(usage.outputTokens).toBe(8)
})

test('errors carry status and body, and say whether a retry helps', async () => {
  const error = await generateText({ ...ask, model: openai().chat('none') }).catch(
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(APICallError)
  expect(error).toMatchObject({ statusCode: 404, isRetryable: false })
})

test('an aborted stream stops the generation', async () => {
  const abort = new AbortController()
  const { textStream } = streamText({
    ...ask,
    model: openai().chat(served.model),
    maxOutputTokens: 400,
    abortSignal: abort.signal,
  })
  let count = 0
  for await (const _ of textStream) if (++count === 3) abort.abort()
  const aborted = (await settledUsage(served.stack)).filter(
    ({ outcome }) => outcome === 'client_aborted',
  )
  expect(aborted).toHaveLength(1)
  expect(aborted[0]!.completion_tokens).toBeLessThan(400)
})
