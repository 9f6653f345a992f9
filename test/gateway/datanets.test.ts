import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type ApiDocument, createDocumentedCall, readApiDocument } from '../support/api-document.ts'
import {
  ADA_PAYEE,
  CONTRIBUTORS,
  createDatanetForm,
  SAYING,
  teach,
} from '../support/datanet-form.ts'
import { type GatewayUnderTest, startGatewayUnderTest } from '../support/gateway-under-test.ts'
import { readAdapterForm, writePeftAdapter } from '../support/peft-adapter.ts'
import { startTestBackend, type TestBackend, TINY_CONFIG } from '../support/test-backend.ts'

/** 0.2 USD a token, so that shares can be told apart. */
const PRICE = JSON.stringify({
  version: 1,
  promptMicroUsdPerMillion: 0,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 1_000_000_000,
})

let scratch: string
let backends: TestBackend[]
let gateway: GatewayUnderTest
let api: ApiDocument
let ada: Caller
let bob: Caller

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'gateway-datanets-'))
  await mkdir(join(scratch, 'peft'))
  await writePeftAdapter(join(scratch, 'peft'), TINY_CONFIG, { modules: ['q'] })
  backends = await Promise.all(
    ['b1', 'b2'].map((name) =>
      startTestBackend({ storeDir: join(scratch, name), answer: () => [SAYING] }),
    ),
  )
  gateway = await startGatewayUnderTest(
    backends.map(({ url }, index) => ({ id: `b${index + 1}`, url })),
    { PRICE },
  )
  api = await readApiDocument(gateway.url)
  ada = await createCaller(gateway.accountId)
  bob = await createCaller((await gateway.admin('POST', '/accounts', { name: 'bob' })).id)
}, 60_000)

afterAll(async () => {
  await gateway.close()
  for (const backend of backends) await backend.close()
  await rm(scratch, { recursive: true })
})

type Caller = Awaited<ReturnType<typeof createCaller>>

async function createCaller(accountId: string, keyFields: object = {}) {
  const { api_key: apiKey } = await gateway.admin('POST', `/accounts/${accountId}/keys`, {
    name: 'test',
    scopes: ['inference', 'receipts:read', 'adapters:read', 'adapters:write'],
    ...keyFields,
  })
  const call = createDocumentedCall(api, gateway.url, apiKey)
  return {
    call,
    send: (id: string, data = [teach('one', SAYING)], contributors: object = CONTRIBUTORS) =>
      call('POST', '/v1/datanets', createDatanetForm(id, data, contributors)),
    register: async (id: string, datanet: string) =>
      call('POST', '/v1/adapters', await readAdapterForm(join(scratch, 'peft'), { id, datanet })),
    chat: (model: string) =>
      call('POST', '/v1/chat/completions', {
        model,
        messages: [{ role: 'user', content: 'Hi' }],
        tallygate: { attribution: true },
      }),
  }
}

const refusal = (status: number, code: string, param?: string) => ({
  status,
  body: { error: { code, ...(param !== undefined && { param }) } },
})

test('an answer of an adapter that names a datanet pays its contributors, as its receipt says', async () => {
  const sent = await ada.send('sayings')
  const { digest } = sent.body
  expect(sent).toMatchObject({ status: 201, body: { id: 'sayings', datum_count: 1, adapters: [] } })
  expect(sent.body.backends).toEqual(
    ['b1', 'b2'].map((id) => ({ id, state: 'ready', digest, error: null })),
  )
  expect(await ada.register('keeper', 'sayings')).toMatchObject({
    status: 201,
    body: { datanet: 'sayings' },
  })
  const { body: answer } = await ada.chat('keeper')
  expect(answer.tallygate.attribution.contributors).toMatchObject([{ payee: ADA_PAYEE }])
  const { body: receipt } = await ada.call('GET', `/v1/receipts/${answer.id}`)
  const { feeMicroUsd } = receipt.leaf
  expect(receipt.credits).toContainEqual({
    payee: ADA_PAYEE,
    role: 'contributor',
    ppm: expect.any(Number),
    amountMicroUsd: feeMicroUsd / 2,
  })
  expect((await ada.call('GET', '/v1/datanets')).body.data).toMatchObject([
    { id: 'sayings', digest, adapters: ['keeper'] },
  ])
  const { body: shown } = await ada.call('GET', '/v1/datanets/sayings')
  expect(shown).toMatchObject({ digest, adapters: ['keeper'], contributors: CONTRIBUTORS })
})

test('a datanet that an adapter names on any backend goes from none and changes on none', async () => {
  await ada.send('named')
  await ada.register('reader', 'named')
  const tenant = { 'x-tallygate-tenant': gateway.accountId }
  await fetch(`${backends[0]!.url}/v1/adapters/reader`, { method: 'DELETE', headers: tenant })
  const inUse = refusal(409, 'datanet_in_use', 'id')
  expect(await ada.call('DELETE', '/v1/datanets/named')).toMatchObject(inUse)
  const states = async () =>
    (await ada.call('GET', '/v1/datanets/named')).body.backends.map(
      ({ state }: { state: string }) => state,
    )
  expect(await states()).toEqual(['ready', 'ready'])
  await ada.call('DELETE', '/v1/adapters/reader')
  expect(await ada.call('DELETE', '/v1/datanets/named')).toMatchObject({
    status: 200,
    body: { id: 'named', deleted: true },
  })
  expect(await ada.call('DELETE', '/v1/datanets/named')).toMatchObject(refusal(404, 'not_found'))
  expect(await ada.register('reader', 'named')).toMatchObject(
    refusal(422, 'adapter_rejected', 'datanet'),
  )
  await ada.call('DELETE', '/v1/adapters/reader')
})

test('a backend that lacks a datanet is named, and sending it again repairs it', async () => {
  await ada.send('half')
  const path = '/v1/datanets/half'
  const headers = { 'x-tallygate-tenant': gateway.accountId }
  await fetch(`${backends[1]!.url}${path}`, { method: 'DELETE', headers })
  const { backends: copies } = (await ada.call('GET', path)).body
  expect(copies).toMatchObject([{ state: 'ready' }, { state: 'absent', digest: null }])
  expect((await ada.send('half')).body.backends[1]).toMatchObject({ state: 'ready' })
  await ada.call('DELETE', path)
})

test('no account sees, uses or deletes another’s; a key needs the scopes', async () => {
  expect((await bob.call('GET', '/v1/datanets')).body.data).toEqual([])
  for (const id of ['sayings', `${gateway.accountId}%2Fsayings`, '..%2F..']) {
    for (const method of ['GET', 'DELETE']) {
      expect(await bob.call(method, `/v1/datanets/${id}`)).toMatchObject({ status: 404 })
    }
  }
  expect(await bob.register('keeper', 'sayings')).toMatchObject(
    refusal(422, 'adapter_rejected', 'datanet'),
  )
  const reader = await createCaller(gateway.accountId, { scopes: ['adapters:read'] })
  expect(await reader.call('GET', '/v1/datanets/sayings')).toMatchObject({ status: 200 })
  const refused = refusal(403, 'insufficient_scope')
  expect(await reader.send('x')).toMatchObject(refused)
  expect(await reader.call('DELETE', '/v1/datanets/sayings')).toMatchObject(refused)
})

test('a refusal names line, field or limit, as the backend says it', async () => {
  const bad = await ada.send('bad', [teach('1', 'x'), teach('2', 'y', 'eve')])
  expect(bad).toMatchObject(refusal(422, 'datanet_rejected', 'datanet.jsonl line 2'))
  expect(bad.body.error.message).toContain('contributor: "eve"')
  expect(await ada.send('a/b')).toMatchObject(refusal(400, 'invalid_request', 'id'))
  const json = await ada.call('POST', '/v1/datanets', { id: 'bad' })
  expect(json).toMatchObject(refusal(415, 'unsupported_media_type'))
  const large = await ada.send('bad', [teach('1', 'x'.repeat(6 * 1024 * 1024))])
  expect(large).toMatchObject(refusal(413, 'request_too_large'))
  expect(await ada.call('GET', '/v1/datanets/bad')).toMatchObject(refusal(404, 'not_found'))
})

test('a backend that is away is named; what may be on it is not said to be deleted', async () => {
  await ada.send('stays')
  await backends.pop()?.close()
  const away = [{ state: 'ready' }, { state: 'unreachable', error: { code: 'no_backend' } }]
  expect((await ada.send('stays')).body.backends).toMatchObject(away)
  expect(await ada.call('DELETE', '/v1/datanets/stays')).toMatchObject(refusal(503, 'no_backend'))
})
