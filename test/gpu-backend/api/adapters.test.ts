import { join } from 'node:path'
import OpenAI from 'openai'
import { afterEach, expect, test } from 'vitest'
import { requestReportSchema } from '../../../protocol/backend.ts'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import { type PeftAdapterOptions, writePeftAdapter } from '../../support/peft-adapter.ts'
import {
  startTestBackend,
  type TestBackend,
  type TestBackendOptions,
  TINY_CONFIG,
} from '../../support/test-backend.ts'

let backend: TestBackend
const closes: (() => Promise<void>)[] = []

afterEach(async () => {
  await Promise.all(closes.splice(0).map((close) => close()))
})

async function start(options: TestBackendOptions = {}) {
  backend = await startTestBackend(options)
  closes.push(backend.close)
  return new OpenAI({ baseURL: `${backend.url}/v1`, apiKey: 'unused', maxRetries: 0 })
}

interface Answer {
  readonly digest: string
  readonly state: string
  readonly data: readonly object[]
}

async function call(method: string, path: string, body?: object) {
  const init = body ? { method, body: JSON.stringify(body) } : { method }
  const response = await fetch(backend.url + path, init)
  return { status: response.status, body: (await response.json()) as Answer }
}

const write = (name: string, options: PeftAdapterOptions = {}) =>
  writePeftAdapter(join(backend.adaptersDir, name), TINY_CONFIG, { modules: ['q'], ...options })
const messages = [{ role: 'user' as const, content: 'Hi' }]
const withId = (id: string) => ({ headers: { 'x-request-id': id } })
const owner = `0x${'1f'.repeat(20)}`

async function report(id: string) {
  return requestReportSchema.parse((await call('GET', `/tallygate/requests/${id}`)).body)
}

test('an adapter is registered while serving, loaded by the first request, named by its id or after the base, listed and unloaded', async () => {
  const client = await start()
  await write('poet', { manifest: { owner } })
  const loaded = await call('POST', '/v1/adapters', { path: 'poet' })
  expect(loaded).toMatchObject({
    status: 201,
    body: { id: 'poet', object: 'adapter', state: 'on_disk', owner, datanet: null, error: null },
  })
  const { digest } = loaded.body
  expect(backend.engine.loadedDigests.size).toBe(0)
  for (const model of ['poet', 'tiny:poet']) {
    const answer = await client.chat.completions.create({ model, messages }, withId('req_poet'))
    expect(answer.model).toBe(model)
    expect(backend.engine.requests.at(-1)?.adapter).toBe(digest)
    expect((await report('req_poet')).tallygate).toMatchObject({
      adapter_digest: digest,
      adapter_owner: owner,
      attribution_digest: ZERO_DIGEST,
    })
  }
  const models = await client.models.list()
  expect(models.data).toMatchObject([{ id: 'tiny' }, { id: 'poet', parent: 'tiny', digest }])
  expect(await client.models.retrieve('tiny:poet')).toMatchObject({ id: 'poet' })
  expect((await call('GET', '/v1/adapters')).body.data).toMatchObject([
    {
      ...loaded.body,
      state: 'ready',
      events: [{ state: 'on_disk' }, { state: 'loading' }, { state: 'ready' }],
    },
  ])
  expect(await call('DELETE', '/v1/adapters/poet')).toEqual({
    status: 200,
    body: { id: 'poet', object: 'adapter', deleted: true },
  })
  expect(backend.engine.loadedDigests.size).toBe(0)
  await expect(client.chat.completions.create({ model: 'poet', messages })).rejects.toMatchObject({
    status: 404,
    code: 'model_not_found',
  })
})

test('an unload waits for the stream in flight and lets no new request in', async () => {
  const held = Promise.withResolvers<void>()
  const client = await start({
    beforeToken: (_, index) => (index === 1 ? held.promise : undefined),
  })
  await write('poet')
  await call('POST', '/v1/adapters', { path: 'poet' })
  const stream = await client.chat.completions.create({ model: 'poet', messages, stream: true })
  const unload = call('DELETE', '/v1/adapters/poet')
  const entry = async () => (await call('GET', '/v1/adapters/poet')).body
  while ((await entry()).state !== 'unloading');
  await expect(client.chat.completions.create({ model: 'poet', messages })).rejects.toMatchObject({
    code: 'model_not_found',
  })
  expect(backend.engine.loadedDigests.size).toBe(1)
  held.resolve()
  let text = ''
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? ''
  expect(text).toBe('Hello world')
  expect(await unload).toMatchObject({ status: 200 })
  expect(backend.engine.loadedDigests.size).toBe(0)
  expect(await call('GET', '/v1/adapters/poet')).toMatchObject({ status: 404 })
})

test('changed content under the same id is a new digest; old requests finish on the old one', async () => {
  const held = Promise.withResolvers<void>()
  const client = await start({
    beforeToken: (_, index) => (index === 1 ? held.promise : undefined),
  })
  await write('poet')
  const first = await call('POST', '/v1/adapters', { path: 'poet' })
  const stream = await client.chat.completions.create(
    { model: 'poet', messages, stream: true },
    withId('req_old'),
  )
  await write('poet', { seed: 2 })
  const second = await call('POST', '/v1/adapters', { path: 'poet' })
  expect(second.body.digest).not.toBe(first.body.digest)
  const newer = client.chat.completions.create({ model: 'poet', messages, max_tokens: 1 })
  expect((await newer).choices).toHaveLength(1)
  expect(backend.engine.requests.at(-1)?.adapter).toBe(second.body.digest)
  expect(backend.engine.loadedDigests).toEqual(new Set([first.body.digest, second.body.digest]))
  held.resolve()
  for await (const _ of stream);
  expect((await report('req_old')).tallygate?.adapter_digest).toBe(first.body.digest)
  expect(backend.engine.loadedDigests).toEqual(new Set([second.body.digest]))
})

test('requests for a cold adapter share its load, and one content under two ids is in the engine once', async () => {
  let loadCount = 0
  const client = await start({
    loadAdapter: async () => {
      loadCount += 1
    },
  })
  await write('poet')
  const register = (id: string) => call('POST', '/v1/adapters', { path: 'poet', id })
  const answers = await Promise.all([register('a'), register('a'), register('b')])
  expect(answers.map(({ status }) => status)).toEqual([201, 201, 201])
  const ask = (model: string) => client.chat.completions.create({ model, messages })
  await Promise.all([ask('a'), ask('b'), ask('a'), ask('b')])
  expect(loadCount).toBe(1)
  await call('DELETE', '/v1/adapters/a')
  expect(backend.engine.loadedDigests.size).toBe(1)
  await call('DELETE', '/v1/adapters/b')
  expect(backend.engine.loadedDigests.size).toBe(0)
})

test('loads, reloads and unloads of one id at the same time end in their order', async () => {
  await start()
  await write('poet')
  const results = await Promise.all([
    call('POST', '/v1/adapters', { path: 'poet' }),
    call('POST', '/v1/adapters', { path: 'poet', owner }),
    call('DELETE', '/v1/adapters/poet'),
    call('POST', '/v1/adapters', { path: 'poet' }),
  ])
  for (const { status } of results) expect([200, 201, 404]).toContain(status)
  await call('POST', '/v1/adapters', { path: 'poet', pinned: true })
  expect((await call('GET', '/v1/adapters/poet')).body.state).toBe('ready')
  expect(backend.engine.loadedDigests.size).toBe(1)
  await call('DELETE', '/v1/adapters/poet')
  expect(backend.engine.loadedDigests.size).toBe(0)
})

test('a rejected adapter says why, is listed as failed, and serving goes on', async () => {
  const client = await start()
  await write('broken', { config: { use_dora: true } })
  const rejected = await call('POST', '/v1/adapters', { path: 'broken' })
  const error = { code: 'adapter_rejected', param: 'use_dora' }
  expect(rejected).toMatchObject({ status: 422, body: { error } })
  expect((await call('GET', '/v1/adapters/broken')).body).toMatchObject({ state: 'failed', error })
  await expect(client.chat.completions.create({ model: 'broken', messages })).rejects.toMatchObject(
    { status: 404, message: expect.stringContaining('DoRA') },
  )
  await client.chat.completions.create({ model: 'tiny', messages })
  await write('broken')
  expect(await call('POST', '/v1/adapters', { path: 'broken' })).toMatchObject({ status: 201 })
  await client.chat.completions.create({ model: 'broken', messages })
  await write('broken', { config: { use_dora: true } })
  expect(await call('POST', '/v1/adapters', { path: 'broken' })).toMatchObject({ status: 422 })
  expect((await call('GET', '/v1/adapters/broken')).body.state).toBe('ready')
  await client.chat.completions.create({ model: 'broken', messages })
})

test('a load that the engine refuses fails that adapter only', async () => {
  await start({ loadAdapter: () => Promise.reject(new Error('out of memory at 0x1234')) })
  await write('poet')
  const { status, body } = await call('POST', '/v1/adapters', { path: 'poet', pinned: true })
  expect({ status, body }).toMatchObject({
    status: 500,
    body: { error: { code: 'internal_error' } },
  })
  expect(JSON.stringify(body)).not.toContain('0x1234')
  expect(await call('GET', '/health')).toMatchObject({ status: 200 })
})

test.each([
  [{}, 400, 'path'],
  [{ path: 3 }, 400, 'path'],
  [{ path: 'poet', id: 'a:b' }, 400, 'id'],
  [{ path: 'poet', id: 'tiny' }, 422, 'id'],
  [{ path: 'poet', owner: '0x1' }, 400, 'owner'],
  [{ path: 'poet', datanet: '../x' }, 400, 'datanet'],
  [{ path: 'poet', datanet: 'none' }, 422, 'datanet'],
  [{ path: '../..' }, 422, 'path'],
  [{ path: 'none' }, 422, 'path'],
])('the registration %j is a %i naming %s', async (body, status, param) => {
  await start()
  await write('poet')
  expect(await call('POST', '/v1/adapters', body)).toMatchObject({
    status,
    body: { error: { param } },
  })
})

test('an adapter with a datanet credits its contributors', async () => {
  const digest = `0x${'cd'.repeat(32)}` as const
  const payee = `0x${'2e'.repeat(20)}` as const
  const attributor = {
    digest,
    attribute: (answer: string) => ({
      contributors: [{ contributor: 'ada', payee, weightPpm: 1_000_000 }],
      spans: [{ start: 0, end: answer.length, datumId: 'd1', contributor: 'ada' }],
    }),
  }
  const client = await start({ attributors: { poems: attributor } })
  await write('poet', { manifest: { datanet: 'poems' } })
  await call('POST', '/v1/adapters', { path: 'poet' })
  await client.chat.completions.create({ model: 'poet', messages }, withId('req_credit'))
  expect((await report('req_credit')).tallygate).toMatchObject({
    attribution_digest: digest,
    contributors: [{ contributor: 'ada', payee, weight_ppm: 1_000_000 }],
    spans: [{ start: 0, end: 11, datum_id: 'd1', contributor: 'ada' }],
  })
})

test('an attributor that fails, fails the request but not its count', async () => {
  const attribute = () => {
    throw new Error('no index')
  }
  const attributors = { poems: { digest: ZERO_DIGEST, attribute } }
  const client = await start({ attributors })
  await write('poet', { manifest: { datanet: 'poems' } })
  await call('POST', '/v1/adapters', { path: 'poet' })
  await expect(
    client.chat.completions.create({ model: 'poet', messages }, withId('req_lost')),
  ).rejects.toMatchObject({ status: 500 })
  expect(await report('req_lost')).toMatchObject({
    state: 'failed',
    usage: { completion_tokens: 4 },
  })
})

test('metrics name the queue, the cache, the adapters in use and how requests ended', async () => {
  const held = Promise.withResolvers<void>()
  const client = await start({
    beforeToken: (_, index) => (index === 1 ? held.promise : undefined),
  })
  await write('poet')
  await call('POST', '/v1/adapters', { path: 'poet' })
  const stream = await client.chat.completions.create({ model: 'poet', messages, stream: true })
  const during = await (await fetch(`${backend.url}/metrics`)).text()
  expect(during).toContain('\nvllm:num_requests_running 1\n')
  expect(during).toContain('\nvllm:num_requests_waiting 0\n')
  expect(during).toContain('\nvllm:gpu_cache_usage_perc 0\n')
  expect(during).toContain('running_lora_adapters="poet"')
  expect(during).toContain('\ntallygate:loaded_adapters 1\n')
  held.resolve()
  for await (const _ of stream);
  await client.chat.completions.create({ model: 'none', messages }).catch(() => undefined)
  const after = await (await fetch(`${backend.url}/metrics`)).text()
  expect(after).toContain('running_lora_adapters=""')
  expect(after).toContain('\ntallygate:requests_total{outcome="completed"} 1\n')
  expect(after).toContain('\ntallygate:errors_total{code="model_not_found"} 1\n')
})
