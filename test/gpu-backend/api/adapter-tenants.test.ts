import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { backendModelsSchema } from '../../../protocol/backend.ts'
import {
  type PeftAdapterOptions,
  readAdapterForm,
  writePeftAdapter,
} from '../../support/peft-adapter.ts'
import { createTenantCall } from '../../support/tenant-call.ts'
import {
  startTestBackend,
  type TestBackend,
  type TestBackendOptions,
  TINY_CONFIG,
} from '../../support/test-backend.ts'

const ADA = 'acct_ada'
const BOB = 'acct_bob'

let scratch: string
const backends: TestBackend[] = []

beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'tenants-'))
})

afterEach(async () => {
  for (const backend of backends.splice(0)) await backend.close()
  await rm(scratch, { recursive: true })
})

async function start(options: TestBackendOptions = {}) {
  const backend = await startTestBackend({ storeDir: join(scratch, 'store'), ...options })
  backends.push(backend)
  return (tenant: string | null) => createCaller(backend, tenant)
}

function createCaller(backend: TestBackend, tenant: string | null) {
  const call = createTenantCall(backend.url, tenant)
  return {
    call,
    upload: async (
      id: string,
      seed: number,
      fields: object = {},
      options: PeftAdapterOptions = {},
    ) => call('POST', '/v1/adapters', await createForm(id, { seed, ...options }, fields)),
    ask: (model: string, more: object = {}) =>
      call('POST', '/v1/completions', { model, prompt: 'x', max_tokens: 1, ...more }),
    models: async () =>
      backendModelsSchema.parse((await call('GET', '/v1/models')).body).data.map(({ id }) => id),
    write: (name: string, seed: number) =>
      writePeftAdapter(join(backend.adaptersDir, name), TINY_CONFIG, { modules: ['q'], seed }),
  }
}

async function createForm(id: string, options: PeftAdapterOptions, fields: object) {
  const folder = await mkdtemp(join(scratch, 'peft-'))
  await writePeftAdapter(folder, TINY_CONFIG, { modules: ['q'], ...options })
  return readAdapterForm(folder, { id, ...fields })
}

test('adapters of one name are apart for each tenant: seen, used, replaced and deleted by it alone', async () => {
  const as = await start()
  const [ada, bob, operator] = [as(ADA), as(BOB), as(null)]
  const [first, second] = [await ada.upload('poet', 1), await bob.upload('poet', 2)]
  expect([first.status, second.status]).toEqual([201, 201])
  expect(first.body).toMatchObject({ id: 'poet', tenant: ADA, base_model: 'tiny' })
  expect(first.body.digest).not.toBe(second.body.digest)
  for (const [caller, { body }] of [
    [ada, first],
    [bob, second],
  ] as const) {
    for (const model of ['poet', 'tiny:poet']) {
      expect((await caller.ask(model)).body.tallygate.adapter_digest).toBe(body.digest)
    }
    expect((await caller.call('GET', '/v1/adapters')).body.data).toHaveLength(1)
    expect(await caller.models()).toEqual(['tiny', 'poet'])
  }
  await bob.upload('mine', 3)
  for (const model of ['mine', `${BOB}/mine`, `tiny:${BOB}/mine`, `../${BOB}/mine`]) {
    expect(await ada.ask(model)).toMatchObject({
      status: 404,
      body: { error: { code: 'model_not_found' } },
    })
    expect(await operator.ask(model)).toMatchObject({ status: 404 })
  }
  const member = { tallygate: { adapters: [{ id: 'mine', weight: 1 }] } }
  expect(await ada.ask('tiny', member)).toMatchObject({ status: 404 })
  expect(await bob.ask('tiny', member)).toMatchObject({ status: 200 })
  for (const method of ['GET', 'DELETE']) {
    expect(await ada.call(method, '/v1/adapters/mine')).toMatchObject({ status: 404 })
    expect(await ada.call(method, `/v1/adapters/${BOB}%2Fmine`)).toMatchObject({ status: 404 })
  }
  expect((await operator.call('GET', '/v1/adapters')).body.data).toMatchObject([
    { id: 'poet', tenant: ADA },
    { id: 'poet', tenant: BOB },
    { id: 'mine', tenant: BOB },
  ])
  expect(await ada.call('DELETE', '/v1/adapters/poet')).toMatchObject({
    status: 200,
    body: { id: 'poet' },
  })
  expect(await ada.ask('poet')).toMatchObject({ status: 404 })
  expect(await bob.ask('poet')).toMatchObject({ status: 200 })
})

test('the operator’s adapters are for everyone, and a tenant’s own of the same name hides one from that tenant alone', async () => {
  const as = await start()
  const [ada, bob, operator] = [as(ADA), as(BOB), as(null)]
  await operator.write('poet', 9)
  const { digest } = (await operator.call('POST', '/v1/adapters', { path: 'poet' })).body
  const own = await ada.upload('poet', 1)
  expect((await ada.ask('poet')).body.tallygate.adapter_digest).toBe(own.body.digest)
  expect((await bob.ask('poet')).body.tallygate.adapter_digest).toBe(digest)
  expect(await ada.models()).toEqual(['tiny', 'poet'])
  expect(await bob.call('DELETE', '/v1/adapters/poet')).toMatchObject({ status: 404 })
  await ada.call('DELETE', '/v1/adapters/poet')
  expect((await ada.ask('poet')).body.tallygate.adapter_digest).toBe(digest)
})

test('who owns an adapter survives a restart', async () => {
  const as = await start()
  const owner = `0x${'1f'.repeat(20)}`
  const { digest } = (await as(ADA).upload('poet', 1, { owner })).body
  await backends.pop()?.close()
  const again = await start()
  expect((await again(ADA).ask('poet')).body.tallygate).toMatchObject({
    adapter_digest: digest,
    adapter_owner: owner,
  })
  expect(await again(BOB).ask('poet')).toMatchObject({ status: 404 })
})

test('a tenant has neither the operator’s folders nor memory that others could use, and no more adapters than it may', async () => {
  const as = await start({ maxTenantAdapterCount: 2 })
  const ada = as(ADA)
  await ada.write('poet', 1)
  expect(await ada.call('POST', '/v1/adapters', { path: 'poet' })).toMatchObject({
    status: 400,
    body: { error: { param: 'path' } },
  })
  expect(await ada.upload('poet', 1, { pinned: 'true' })).toMatchObject({
    status: 400,
    body: { error: { param: 'pinned' } },
  })
  for (const id of ['a', 'b', 'a']) expect(await ada.upload(id, 1)).toMatchObject({ status: 201 })
  expect(await ada.upload('c', 1)).toMatchObject({
    status: 422,
    body: { error: { code: 'adapter_rejected', param: 'id' } },
  })
  expect(await as(BOB).upload('c', 1)).toMatchObject({ status: 201 })
  expect(await as('no/such tenant').upload('d', 1)).toMatchObject({
    status: 400,
    body: { error: { param: 'x-tallygate-tenant' } },
  })
})
