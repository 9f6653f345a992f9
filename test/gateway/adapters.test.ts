import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ApiDocument, createDocumentedCall, readApiDocument } from '../support/api-document.ts'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import { startHubServer } from '../support/hub-server.ts'
import { type ModelBackend, startModelBackend } from '../support/model-backend.ts'
import {
  type PeftAdapterOptions,
  readAdapterForm,
  writePeftAdapter,
} from '../support/peft-adapter.ts'
import { TINY_CONFIG as BYTE_CONFIG, startTestBackend } from '../support/test-backend.ts'
import { TINY_CONFIG } from '../support/tiny-model.ts'

const MAX_UPLOAD_BYTES = 200_000
const COMMIT = 'c0'.repeat(20)
const OWNER = `0x${'1f'.repeat(20)}`

let scratch: string
let backends: ModelBackend[]
let hub: Awaited<ReturnType<typeof startHubServer>>
let gateway: GatewayUnderTest
let api: ApiDocument
let ada: Caller
let bob: Caller

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'gateway-adapters-'))
  hub = await startHub()
  const env = { HF_ENDPOINT: hub.url }
  backends = await Promise.all([1, 2].map(() => startModelBackend({ seed: 7, env })))
  gateway = await startGatewayUnderTest(
    backends.map(({ url }, index) => ({ id: `b${index + 1}`, url })),
    { MAX_UPLOAD_BYTES: String(MAX_UPLOAD_BYTES) },
  )
  api = await readApiDocument(gateway.url)
  ada = await createCaller(gateway.accountId)
  bob = await createCaller((await gateway.admin('POST', '/accounts', { name: 'bob' })).id)
}, 60_000)

afterAll(async () => {
  await gateway.close()
  for (const backend of backends) await backend.close()
  await hub.close()
  await rm(scratch, { recursive: true })
})

type Caller = Awaited<ReturnType<typeof createCaller>>

async function createCaller(accountId: string, keyFields: object = {}) {
  const { api_key: apiKey } = await gateway.admin('POST', `/accounts/${accountId}/keys`, {
    name: 'test',
    scopes: ['inference', 'adapters:read', 'adapters:write'],
    ...keyFields,
  })
  const call = createDocumentedCall(api, gateway.url, apiKey)
  return {
    accountId,
    call,
    upload: async (fields: object, options: PeftAdapterOptions = {}, query = '') =>
      call('POST', `/v1/adapters${query}`, await createForm(fields, options)),
    chat: (model: string, more: object = {}) =>
      call('POST', '/v1/chat/completions', {
        model,
        messages: [{ role: 'user', content: 'Hi' }],
        max_tokens: 4,
        temperature: 0,
        ...more,
      }),
    models: async (): Promise<readonly string[]> =>
      (await call('GET', '/v1/models')).body.data.map(({ id }: { id: string }) => id),
  }
}

async function writeFiles(options: PeftAdapterOptions): Promise<string> {
  const folder = await mkdtemp(join(scratch, 'peft-'))
  await writePeftAdapter(folder, TINY_CONFIG, { modules: ['q', 'v'], amplitude: 1, ...options })
  return folder
}

async function startHub() {
  const folder = await writeFiles({ seed: 8 })
  const read = async (name: string) => [name, await readFile(join(folder, name))] as const
  const files = await Promise.all(
    ['adapter_config.json', 'adapter_model.safetensors'].map((name) => read(name)),
  )
  return startHubServer('ada/poet', 'main', Object.fromEntries(files), { commit: COMMIT })
}

async function createForm(fields: object, options: PeftAdapterOptions): Promise<FormData> {
  return readAdapterForm(await writeFiles(options), fields)
}

const refusal = (status: number, code: string, param?: string) => ({
  status,
  body: { error: { code, ...(param !== undefined && { param }) } },
})

test('an upload is on every backend, serves at once, names its owner, and goes from all of them', async () => {
  const uploaded = await ada.upload({ id: 'poet', owner: OWNER }, { seed: 1 })
  expect(uploaded).toMatchObject({ status: 201, body: { id: 'poet', owner: OWNER } })
  const { digest, backends: copies } = uploaded.body
  expect(copies).toMatchObject([
    { id: 'b1', state: 'on_disk', digest },
    { id: 'b2', state: 'on_disk', digest },
  ])
  const again = await ada.upload({ id: 'poet', owner: OWNER }, { seed: 1 })
  expect(again).toMatchObject({ status: 201, body: { digest } })
  const answer = await ada.chat('poet', { tallygate: { attribution: true } })
  expect(answer).toMatchObject({ status: 200, body: { model: 'poet' } })
  expect((await ada.call('GET', '/v1/adapters/poet')).body).toMatchObject({ id: 'poet', digest })
  expect((await ada.call('GET', '/v1/adapters')).body.data).toHaveLength(1)
  expect((await ada.call('GET', '/v1/models/poet')).body).not.toHaveProperty('tenant')
  const replaced = await ada.upload({ id: 'poet' }, { seed: 2 })
  expect(replaced.body.digest).not.toBe(digest)
  expect(await ada.call('DELETE', '/v1/adapters/poet')).toEqual({
    status: 200,
    body: { id: 'poet', object: 'adapter', deleted: true },
  })
  expect(await ada.call('DELETE', '/v1/adapters/poet')).toMatchObject(refusal(404, 'not_found'))
  expect(await ada.chat('poet')).toMatchObject(refusal(404, 'model_not_found', 'model'))
})

test('no account sees, uses, replaces or deletes another’s adapter, nor learns that it is there', async () => {
  const { digest } = (await ada.upload({ id: 'secret' }, { seed: 3 })).body
  expect(await ada.models()).toContain('secret')
  expect(await bob.models()).not.toContain('secret')
  expect((await bob.call('GET', '/v1/adapters')).body.data).toEqual([])
  for (const id of ['secret', `${ada.accountId}%2Fsecret`, `${ada.accountId}@secret`, '..']) {
    for (const method of ['GET', 'DELETE'] as const) {
      const { status } = await bob.call(method, `/v1/adapters/${encodeURIComponent(id)}`)
      expect(status, `${method} ${id}`).toBe(404)
    }
    expect(await bob.call('GET', `/v1/models/${id}`)).toMatchObject({ status: 404 })
  }
  const base = (await bob.models())[0]!
  for (const model of ['secret', `${ada.accountId}/secret`, `${base}:${ada.accountId}/secret`]) {
    expect(await bob.chat(model)).toMatchObject(refusal(404, 'model_not_found', 'model'))
  }
  const merge = { tallygate: { adapters: [{ id: 'secret', weight: 1 }] } }
  expect(await bob.chat(base, merge)).toMatchObject(refusal(404, 'model_not_found'))
  expect(await ada.chat(base, merge)).toMatchObject({ status: 200 })
  const other = await bob.upload({ id: 'secret', owner: OWNER }, { seed: 4 })
  expect(other.body.digest).not.toBe(digest)
  expect((await ada.call('GET', '/v1/adapters/secret')).body).toMatchObject({ digest, owner: null })
  expect(await bob.call('DELETE', '/v1/adapters/secret')).toMatchObject({ status: 200 })
  expect(await ada.chat('secret')).toMatchObject({ status: 200 })
})

test('a key needs the scope by name: one for everything of before has it not', async () => {
  const common = await createCaller(ada.accountId, { scopes: null })
  const reader = await createCaller(ada.accountId, { scopes: ['adapters:read'] })
  expect(await common.call('GET', '/v1/adapters')).toMatchObject(refusal(403, 'insufficient_scope'))
  expect(await common.chat((await common.models())[0]!)).toMatchObject({ status: 200 })
  expect(await reader.call('GET', '/v1/adapters')).toMatchObject({ status: 200 })
  for (const caller of [common, reader]) {
    const refused = refusal(403, 'insufficient_scope')
    expect(await caller.upload({ id: 'x' })).toMatchObject(refused)
    expect(await caller.call('DELETE', '/v1/adapters/x')).toMatchObject(refused)
  }
})

test('what is wrong with an upload is said as the backend says it, and leaves nothing', async () => {
  const dora = { config: { use_dora: true } }
  expect(await ada.upload({ id: 'bad' }, dora)).toMatchObject(
    refusal(422, 'adapter_rejected', 'use_dora'),
  )
  const short = await ada.upload({ id: 'bad' }, { editTensors: (tensors) => tensors.slice(1) })
  expect(short).toMatchObject(refusal(422, 'adapter_rejected'))
  expect(short.body.error.message).toContain('lora_')
  await ada.call('DELETE', '/v1/adapters/bad')
  for (const [fields, param] of [
    [{ id: 'a:b' }, 'id'],
    [{ id: 'x', owner: '0x1' }, 'owner'],
    [{ id: 'x', pinned: 'true' }, 'pinned'],
    [{ id: 'x', tenant: bob.accountId }, undefined],
  ] as const) {
    expect(await ada.upload(fields)).toMatchObject(refusal(400, 'invalid_request', param))
  }
  for (const [body, param] of [
    [{ repo: 'a/b', path: '.' }, 'path'],
    [{ repo: 'a/b', pinned: true }, 'pinned'],
    [{ repo: '../b' }, 'repo'],
    [{ repo: 7 }, 'repo'],
    [{}, 'repo'],
  ] as const) {
    const refused = refusal(400, 'invalid_request', param)
    expect(await ada.call('POST', '/v1/adapters', body)).toMatchObject(refused)
  }
  expect(await ada.upload({ id: 'x' }, {}, '?base_model=none')).toMatchObject(
    refusal(400, 'invalid_request', 'base_model'),
  )
  const text = { method: 'POST', headers: { 'content-type': 'text/plain' }, body: 'x' }
  const key = await gateway.admin('POST', `/accounts/${ada.accountId}/keys`, {
    name: 'w',
    scopes: ['adapters:write'],
  })
  const send = async (contentType: string, body: string) => {
    const headers = { authorization: `Bearer ${key.api_key}`, 'content-type': contentType }
    return (await fetch(`${gateway.url}/v1/adapters`, { ...text, headers, body })).status
  }
  expect(await send('text/plain', 'x')).toBe(415)
  expect(await send('multipart/form-data; boundary=b', 'no form at all')).toBe(400)
  expect(await send('multipart/form-data; boundary=b', '--b\r\n')).toBe(400)
  expect(await send('multipart/form-data', '--b--')).toBe(415)
  expect((await ada.call('GET', '/v1/adapters/x')).status).toBe(404)
})

test('an upload that is too large is refused with the limit, and one that is much too large not read', async () => {
  const send = (factor: number) => {
    const form = new FormData()
    form.append('id', 'large')
    const bytes = new Uint8Array(MAX_UPLOAD_BYTES * factor)
    form.append('files', new Blob([bytes]), 'adapter_model.safetensors')
    return ada.call('POST', '/v1/adapters', form)
  }
  const refused = await send(1.5)
  expect(refused).toMatchObject(refusal(413, 'request_too_large'))
  expect(refused.body.error.message).toContain(String(MAX_UPLOAD_BYTES))
  // Whether the client reads our answer or sees the connection closed is a matter of time.
  expect([413, null]).toContain((await send(50).catch(() => null))?.status ?? null)
  expect((await ada.call('GET', '/v1/adapters/large')).status).toBe(404)
})

test('a repository of the hub is registered at one commit everywhere, and one that is not there is refused', async () => {
  const named = await ada.call('POST', '/v1/adapters', { repo: 'ada/poet', id: 'hubbed' })
  expect(named).toMatchObject({
    status: 201,
    body: {
      id: 'hubbed',
      source: { kind: 'hub', repo: 'ada/poet', commit: COMMIT },
      backends: [{ digest: named.body.digest }, { digest: named.body.digest }],
    },
  })
  expect(await ada.chat('hubbed')).toMatchObject({ status: 200 })
  const { status, body } = await ada.call('POST', '/v1/adapters', { repo: 'ada/none', id: 'none' })
  expect([status, body.error.code]).toEqual([422, 'adapter_rejected'])
})

test('a backend that lacks an adapter is named, and the same upload repairs it', async () => {
  await ada.upload({ id: 'half' }, { seed: 6 })
  await fetch(`${backends[1]!.url}/v1/adapters/half`, {
    method: 'DELETE',
    headers: { 'x-tallygate-tenant': ada.accountId },
  })
  const states = async () =>
    (await ada.call('GET', '/v1/adapters/half')).body.backends.map(
      ({ state }: { state: string }) => state,
    )
  expect(await states()).toEqual(['on_disk', 'absent'])
  await ada.upload({ id: 'half' }, { seed: 6 })
  expect((await states())[1]).toBe('on_disk')
})

test('a delete does not wait for ever for a request in flight: 409, and it goes when that ends', async () => {
  const held = Promise.withResolvers<void>()
  const backend = await startTestBackend({
    storeDir: join(scratch, 'held'),
    beforeToken: (_, index) => (index === 1 ? held.promise : undefined),
  })
  const other = await startGatewayUnderTest([{ id: 'one', url: backend.url }], {
    UPSTREAM_SILENCE_MS: '300',
  })
  const key = await other.admin('POST', `/accounts/${other.accountId}/keys`, {
    name: 'w',
    scopes: ['adapters:write'],
  })
  const headers = { authorization: `Bearer ${key.api_key}` }
  const folder = await mkdtemp(join(scratch, 'byte-'))
  await writePeftAdapter(folder, BYTE_CONFIG, { modules: ['q'] })
  const body = await readAdapterForm(folder, { id: 'poet' })
  const uploaded = await fetch(`${other.url}/v1/adapters`, { method: 'POST', headers, body })
  expect(uploaded.status).toBe(201)
  const running = fetch(`${backend.url}/v1/completions`, {
    method: 'POST',
    headers: { 'x-tallygate-tenant': other.accountId },
    body: JSON.stringify({ model: 'poet', prompt: 'x' }),
  })
  while (backend.engine.requests.length === 0) await setImmediate()
  const remove = async () => {
    const response = await fetch(`${other.url}/v1/adapters/poet`, { method: 'DELETE', headers })
    // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
    return { status: response.status, body: (await response.json()) as any }
  }
  expect(await remove()).toMatchObject(refusal(409, 'adapter_in_use'))
  held.resolve()
  expect((await running).status).toBe(200)
  expect([200, 404]).toContain((await remove()).status)
  await other.close()
  await backend.close()
})

test('a backend that is away is named in the answer; what may be on it is not said to be deleted', async () => {
  await ada.upload({ id: 'stays' }, { seed: 7 })
  await backends.pop()?.close()
  const away = [{ state: 'on_disk' }, { state: 'unreachable', error: { code: 'no_backend' } }]
  expect((await ada.call('GET', '/v1/adapters/stays')).body.backends).toMatchObject(away)
  const uploaded = await ada.upload({ id: 'stays' }, { seed: 7 })
  expect(uploaded).toMatchObject({ status: 201, body: { backends: away } })
  expect(await ada.call('DELETE', '/v1/adapters/stays')).toMatchObject(refusal(503, 'no_backend'))
  await backends.pop()?.close()
  expect(await ada.upload({ id: 'none' })).toMatchObject(refusal(503, 'no_backend'))
})
