import OpenAI, { APIError, APIUserAbortError, NotFoundError, RateLimitError } from 'openai'
import { afterEach, expect, test } from 'vitest'
import { provenanceSchema, requestReportSchema } from '../../../protocol/backend.ts'
import { hashText } from '../../../protocol/content-hash.ts'
import {
  startTestBackend,
  type TestBackend,
  type TestBackendOptions,
} from '../../support/test-backend.ts'

let backend: TestBackend | null = null

afterEach(async () => {
  await backend?.close()
  backend = null
})

async function start(options: TestBackendOptions = {}) {
  backend = await startTestBackend(options)
  const client = new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
  return { backend, client }
}

const messages = [{ role: 'user' as const, content: 'Hi' }]
const withId = (id: string) => ({ headers: { 'x-request-id': id } })
const never = () => new Promise<void>(() => undefined)

async function report(url: string, id: string) {
  const response = await fetch(`${url}/tallygate/requests/${id}`)
  expect(response.status).toBe(200)
  return requestReportSchema.parse(await response.json())
}

test('a whole answer carries text, usage and what it was made of', async () => {
  const { client, backend } = await start()
  const answer = await client.chat.completions.create({ model: 'tiny', messages }, withId('req_a1'))
  expect(answer).toMatchObject({
    id: 'chatcmpl-a1',
    object: 'chat.completion',
    model: 'tiny',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: 'Hello world', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
      },
    ],
    usage: { prompt_tokens: 9, completion_tokens: 4, total_tokens: 13 },
  })
  const provenance = provenanceSchema.parse((answer as unknown as { tallygate: unknown }).tallygate)
  expect(provenance.prompt_hash).toBe(hashText('user: Hi\n'))
  expect(provenance.output_hash).toBe(hashText('Hello world'))
  expect(await report(backend.url, 'req_a1')).toMatchObject({
    state: 'completed',
    usage: answer.usage,
    tallygate: provenance,
  })
})

test('a stream has one frame with text and no finish reason for each sampled token', async () => {
  const { client, backend } = await start({ answer: () => ['Hel', '', 'lo'] })
  const stream = await client.chat.completions.create(
    { model: 'tiny', messages, stream: true, stream_options: { include_usage: true } },
    withId('req_b2'),
  )
  const chunks = []
  for await (const chunk of stream) {
    backend.clock.nowMs += 5000
    chunks.push(chunk)
  }
  expect(chunks.map((chunk) => [chunk.choices[0]?.delta, chunk.choices[0]?.finish_reason])).toEqual(
    [
      [{ role: 'assistant' }, null],
      [{ content: 'Hel' }, null],
      [{ content: '' }, null],
      [{ content: 'lo' }, null],
      [{}, 'stop'],
      [undefined, undefined],
    ],
  )
  expect(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created}`)).size).toBe(1)
  expect(chunks[0]).toMatchObject({
    id: 'chatcmpl-b2',
    object: 'chat.completion.chunk',
    usage: null,
  })
  const last = chunks.at(-1)
  expect(last).toMatchObject({ choices: [], usage: { prompt_tokens: 9, completion_tokens: 4 } })
  provenanceSchema.parse((last as unknown as { tallygate: unknown }).tallygate)
})

test('without include_usage a stream has no usage chunk', async () => {
  const { client } = await start()
  const stream = await client.chat.completions.create({ model: 'tiny', messages, stream: true })
  for await (const chunk of stream) {
    expect(chunk.choices).toHaveLength(1)
    expect(chunk).not.toHaveProperty('usage')
  }
})

test('two choices run as two sequences, and their prompt is counted once', async () => {
  const { client, backend } = await start({
    answer: (request) => (request.id.endsWith('#1') ? ['second'] : ['the', ' first']),
  })
  const answer = await client.chat.completions.create(
    { model: 'tiny', messages, n: 2, seed: 7 },
    withId('req_n2'),
  )
  expect(answer.choices.map((choice) => choice.message.content)).toEqual(['the first', 'second'])
  expect(answer.usage).toMatchObject({ prompt_tokens: 9, completion_tokens: 5, total_tokens: 14 })
  const [first, second] = backend.engine.requests
  expect([first?.id, second?.id]).toEqual(['req_n2#0', 'req_n2#1'])
  expect(first?.sampling.seed).toEqual([7, 0])
  expect(second?.sampling.seed).not.toEqual(first?.sampling.seed)
  const { tallygate } = await report(backend.url, 'req_n2')
  expect(tallygate?.output_hash).toBe(hashText('the first\0second'))
})

test('the parameters of a request reach the engine', async () => {
  const { client, backend } = await start()
  await client.chat.completions.create({
    model: 'tiny',
    messages,
    max_completion_tokens: 5,
    temperature: 0,
    top_p: 0.5,
    presence_penalty: 0.25,
    frequency_penalty: -0.5,
    logit_bias: { 3: -100 },
    stop: 'END',
    seed: -1,
  })
  expect(backend.engine.requests[0]).toMatchObject({
    tenant: 'anonymous',
    tier: 'standard',
    adapter: null,
    maxTokens: 5,
    stop: ['END'],
    stopTokenIds: [0],
    sampling: {
      temperature: 0,
      topP: 0.5,
      topK: 0,
      presencePenalty: 0.25,
      frequencyPenalty: -0.5,
      repetitionPenalty: 1,
      logitBias: [[3, -100]],
      seed: [0xffffffff, 0xffffffff],
    },
  })
})

test('without max_tokens an answer may fill the context', async () => {
  const { client, backend } = await start()
  await client.chat.completions.create({ model: 'tiny', messages })
  expect(backend.engine.requests[0]?.maxTokens).toBe(512 - 9)
})

test('completions take text, token ids and arrays of both, and echo', async () => {
  const { client, backend } = await start({ answer: () => ['!', '?'] })
  const complete = async (prompt: string | string[] | number[] | number[][]) => {
    const { choices } = await client.completions.create({ model: 'tiny', prompt, echo: true })
    return choices.map((choice) => choice.text)
  }
  expect(await complete('ab')).toEqual(['ab!?'])
  expect(await complete(['ab', 'c'])).toEqual(['ab!?', 'c!?'])
  expect(await complete([100, 101])).toEqual(['de!?'])
  expect(await complete([[100], [101]])).toEqual(['d!?', 'e!?'])
  expect(backend.engine.requests[0]?.maxTokens).toBe(16)
})

test('an echoed prompt does not add a frame to a stream', async () => {
  const { client } = await start({ answer: () => ['!', '?'] })
  const texts = []
  const request = { model: 'tiny', prompt: 'ab', echo: true, stream: true } as const
  for await (const chunk of await client.completions.create(request)) {
    texts.push([chunk.choices[0]?.text, chunk.choices[0]?.finish_reason])
  }
  expect(texts).toEqual([
    ['ab!', null],
    ['?', null],
    ['', 'stop'],
  ])
})

test('an unknown model is a 404 that names the parameter', async () => {
  const { client } = await start()
  const error = await client.chat.completions
    .create({ model: 'gpt-none', messages })
    .catch((caught: unknown) => caught)
  expect(error).toBeInstanceOf(NotFoundError)
  expect(error).toMatchObject({ status: 404, code: 'model_not_found', param: 'model' })
})

test('a client that leaves a stream cancels the engine, and the report says what was produced', async () => {
  const { client, backend } = await start({
    beforeToken: (_, index) => (index === 2 ? never() : undefined),
  })
  const stream = await client.chat.completions.create(
    { model: 'tiny', messages, stream: true },
    withId('req_gone'),
  )
  let frameCount = 0
  for await (const _ of stream) {
    frameCount += 1
    if (frameCount < 3) continue
    expect(await report(backend.url, 'req_gone')).toMatchObject({
      state: 'running',
      usage: { prompt_tokens: 9, completion_tokens: 2 },
      tallygate: null,
    })
    break
  }
  expect(await backend.engine.waitForEnd('req_gone')).toBe('cancelled')
  const { state, usage, tallygate } = await report(backend.url, 'req_gone')
  expect({ state, usage }).toMatchObject({
    state: 'cancelled',
    usage: { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 },
  })
  expect(tallygate?.output_hash).toBe(hashText('Hello wor'))
})

test('a request id that is running is refused, one that has ended is taken again', async () => {
  const held = Promise.withResolvers<void>()
  const { client, backend } = await start({
    beforeToken: (_, index) => (index === 1 ? held.promise : undefined),
  })
  const stream = await client.chat.completions.create(
    { model: 'tiny', messages, stream: true },
    {
      headers: {
        'x-request-id': 'req_same',
        'x-tallygate-tenant': 'acct_1',
        'x-tallygate-tier': 'batch',
      },
    },
  )
  expect(backend.engine.requests[0]).toMatchObject({ tenant: 'acct_1', tier: 'batch' })
  const ask = () => client.chat.completions.create({ model: 'tiny', messages }, withId('req_same'))
  await expect(ask()).rejects.toMatchObject({ status: 400, param: 'x-request-id' })
  held.resolve()
  for await (const _ of stream);
  expect((await ask()).id).toBe('chatcmpl-same')
})

test('a client that leaves before a whole answer cancels the engine', async () => {
  const asked = Promise.withResolvers<void>()
  const { client, backend } = await start({
    beforeToken: () => {
      asked.resolve()
      return never()
    },
  })
  const abort = new AbortController()
  const call = client.chat.completions.create(
    { model: 'tiny', messages },
    { ...withId('req_left'), signal: abort.signal },
  )
  const failure = call.catch((error: unknown) => error)
  await asked.promise
  abort.abort()
  expect(await failure).toBeInstanceOf(APIUserAbortError)
  expect(await backend.engine.waitForEnd('req_left')).toBe('cancelled')
  expect(await report(backend.url, 'req_left')).toMatchObject({ state: 'cancelled' })
})

test('a full queue is a 429 with the time to come back, also for streams', async () => {
  const { client } = await start({
    failAt: () => ({ code: 'overloaded', message: 'The queue is full.', retryAfterMs: 1500 }),
  })
  for (const stream of [false, true]) {
    const error = await client.chat.completions
      .create({ model: 'tiny', messages, stream })
      .catch((caught: unknown) => caught)
    expect(error).toBeInstanceOf(RateLimitError)
    expect(error).toMatchObject({ status: 429, code: 'overloaded' })
    const { headers } = error as RateLimitError
    expect(headers?.get('retry-after-ms')).toBe('1500')
    expect(headers?.get('retry-after')).toBe('2')
  }
})

test('an engine that fails in mid-stream ends the stream with an error and no [DONE]', async () => {
  const { backend, client } = await start({
    failAt: (_, index) =>
      index === 1
        ? { code: 'internal_error', message: 'secret detail', retryAfterMs: null }
        : undefined,
  })
  const response = await fetch(`${backend.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'x-request-id': 'req_fail' },
    body: JSON.stringify({ model: 'tiny', messages, stream: true }),
  })
  const frames = (await response.text()).trim().split('\n\n')
  expect(frames).toHaveLength(3)
  expect(JSON.parse(frames[2]!.slice('data: '.length))).toMatchObject({
    error: { code: 'internal_error', type: 'server_error', param: null },
  })
  expect(frames.join()).not.toContain('secret detail')
  expect(await report(backend.url, 'req_fail')).toMatchObject({
    state: 'failed',
    usage: { completion_tokens: 1 },
  })
  const stream = await client.chat.completions.create({ model: 'tiny', messages, stream: true })
  const drained = (async () => {
    for await (const _ of stream);
  })()
  await expect(drained).rejects.toBeInstanceOf(APIError)
})

test('a failing choice takes the others with it', async () => {
  const { client, backend } = await start({
    beforeToken: (request) => (request.id.endsWith('#0') ? never() : undefined),
    failAt: (request) =>
      request.id.endsWith('#1')
        ? { code: 'internal_error', message: 'no', retryAfterMs: null }
        : undefined,
  })
  const call = client.chat.completions.create({ model: 'tiny', messages, n: 2 }, withId('req_two'))
  await expect(call).rejects.toMatchObject({ status: 500 })
  expect(backend.engine.ends.get('req_two#0')).toBe('cancelled')
})

test('a server that shuts down ends what still runs with an error', async () => {
  const { client, backend } = await start({
    beforeToken: (_, index) => (index === 1 ? never() : undefined),
  })
  const stream = await client.chat.completions.create({ model: 'tiny', messages, stream: true })
  const drained = (async () => {
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) backend.abort()
  })()
  await expect(drained).rejects.toMatchObject({ code: 'overloaded' })
})

test('a report is forgotten ten minutes after the end', async () => {
  const { client, backend } = await start()
  await client.chat.completions.create({ model: 'tiny', messages }, withId('req_old'))
  backend.clock.nowMs += 600_000
  expect((await fetch(`${backend.url}/tallygate/requests/req_old`)).status).toBe(200)
  backend.clock.nowMs += 1
  expect((await fetch(`${backend.url}/tallygate/requests/req_old`)).status).toBe(404)
})

test('the base model is listed with its digest and context', async () => {
  const { client } = await start()
  const models = await client.models.list()
  expect(models.data).toMatchObject([{ id: 'tiny', parent: null, max_model_len: 512 }])
  expect(await client.models.retrieve('tiny')).toMatchObject({ digest: `0x${'ab'.repeat(32)}` })
})
