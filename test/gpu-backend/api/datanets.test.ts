import { appendFile, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import {
  ADA_PAYEE,
  CONTRIBUTORS,
  createDatanetForm,
  SAYING,
  teach,
} from '../../support/datanet-form.ts'
import { readAdapterForm, writePeftAdapter } from '../../support/peft-adapter.ts'
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
  scratch = await mkdtemp(join(tmpdir(), 'datanets-'))
  await mkdir(join(scratch, 'peft'))
  await writePeftAdapter(join(scratch, 'peft'), TINY_CONFIG, { modules: ['q'] })
})

afterEach(async () => {
  for (const backend of backends.splice(0)) await backend.close()
  await rm(scratch, { recursive: true })
})

async function start(options: TestBackendOptions = {}) {
  const backend = await startTestBackend({
    storeDir: join(scratch, 'store'),
    answer: () => [SAYING],
    ...options,
  })
  backends.push(backend)
  return (tenant: string | null) => createCaller(backend, tenant)
}

function createCaller(backend: TestBackend, tenant: string | null) {
  const call = createTenantCall(backend.url, tenant)
  return {
    call,
    send: (id: string, data = [teach('one', SAYING)], contributors: object = CONTRIBUTORS) =>
      call('POST', '/v1/datanets', createDatanetForm(id, data, contributors)),
    register: async (id: string, datanet: string) =>
      call('POST', '/v1/adapters', await readAdapterForm(join(scratch, 'peft'), { id, datanet })),
    payees: async (model: string): Promise<readonly string[]> => {
      const { body } = await call('POST', '/v1/completions', { model, prompt: 'x' })
      return body.tallygate.contributors.map(({ payee }: { payee: string }) => payee)
    },
  }
}

const refusal = (status: number, code: string, param?: string) => ({
  status,
  body: { error: { code, ...(param !== undefined && { param }) } },
})

test('a datanet that a tenant sent credits its contributors in the answers of an adapter that names it, over restarts too', async () => {
  const ada = (await start())(ADA)
  const sent = await ada.send('sayings')
  expect(sent).toMatchObject({
    status: 201,
    body: { id: 'sayings', datum_count: 1, contributor_count: 1, licences: ['CC0-1.0'] },
  })
  expect(sent.body.adapters).toEqual([])
  expect(await ada.register('keeper', 'sayings')).toMatchObject({ status: 201 })
  expect(await ada.payees('keeper')).toEqual([ADA_PAYEE])
  const shown = { digest: sent.body.digest, adapters: ['keeper'], contributors: CONTRIBUTORS }
  expect((await ada.call('GET', '/v1/datanets/sayings')).body).toMatchObject(shown)
  await backends.pop()?.close()
  const again = (await start())(ADA)
  expect(await again.payees('keeper')).toEqual([ADA_PAYEE])
  expect((await again.call('GET', '/v1/datanets/sayings')).body).toMatchObject(shown)
})

test('what an adapter names neither goes nor changes; without adapters it does', async () => {
  const ada = (await start())(ADA)
  const { digest } = (await ada.send('sayings')).body
  await ada.register('keeper', 'sayings')
  const inUse = await ada.call('DELETE', '/v1/datanets/sayings')
  expect(inUse).toMatchObject(refusal(409, 'datanet_in_use', 'id'))
  expect(inUse.body.error.message).toContain('keeper')
  const other = [teach('two', 'something else entirely')]
  expect(await ada.send('sayings', other)).toMatchObject(refusal(409, 'datanet_in_use', 'id'))
  expect(await ada.send('sayings')).toMatchObject({ status: 201, body: { digest } })
  await ada.call('DELETE', '/v1/adapters/keeper')
  const replaced = await ada.send('sayings', other)
  expect(replaced.status).toBe(201)
  expect(replaced.body.digest).not.toBe(digest)
  expect(await ada.call('DELETE', '/v1/datanets/sayings')).toEqual({
    status: 200,
    body: { id: 'sayings', object: 'datanet', deleted: true },
  })
  expect(await ada.call('DELETE', '/v1/datanets/sayings')).toMatchObject(refusal(404, 'not_found'))
  expect(await ada.register('keeper', 'sayings')).toMatchObject(
    refusal(422, 'adapter_rejected', 'datanet'),
  )
  expect(await readdir(join(scratch, 'store', 'datanets', 'incoming'))).toEqual([])
})

test('no tenant sees, names or deletes another’s; the operator has folders, which a tenant’s own hides', async () => {
  const datanetsDir = join(scratch, 'operator')
  await mkdir(join(datanetsDir, 'common'), { recursive: true })
  const payee = `0x${'0b'.repeat(20)}`
  await writeFile(join(datanetsDir, 'common', 'datanet.jsonl'), JSON.stringify(teach('1', SAYING)))
  const contributors = JSON.stringify({ ada: { payee, name: 'Op' } })
  await writeFile(join(datanetsDir, 'common', 'contributors.json'), contributors)
  const as = await start({ datanetsDir })
  const [ada, bob, operator] = [as(ADA), as(BOB), as(null)]
  await ada.send('sayings')
  expect((await bob.call('GET', '/v1/datanets')).body.data).toEqual([])
  for (const id of ['sayings', `${ADA}%2Fsayings`, `${ADA}@sayings`]) {
    for (const method of ['GET', 'DELETE']) {
      expect(await bob.call(method, `/v1/datanets/${id}`)).toMatchObject({ status: 404 })
    }
  }
  for (const name of ['sayings', `${ADA}/sayings`, `../${ADA}@sayings`]) {
    expect((await bob.register('thief', name)).status).toBeGreaterThanOrEqual(400)
  }
  expect(await operator.send('common')).toMatchObject(refusal(400, 'invalid_request'))
  await bob.register('keeper', 'common')
  expect(await bob.payees('keeper')).toEqual([payee])
  expect(await bob.send('common')).toMatchObject(refusal(409, 'datanet_in_use'))
  expect(await ada.send('common')).toMatchObject({ status: 201 })
  await ada.register('keeper', 'common')
  expect(await ada.payees('keeper')).toEqual([ADA_PAYEE])
})

test('a refusal names file, line and field, or the limit, and leaves nothing', async () => {
  const ada = (await start())(ADA)
  const bad = await ada.send('bad', [teach('1', 'x'), teach('2', 'y', 'eve')])
  expect(bad).toMatchObject(refusal(422, 'datanet_rejected', 'datanet.jsonl line 2'))
  expect(bad.body.error.message).toContain('contributor: "eve" is not in contributors.json')
  const unpaid = await ada.send('bad', undefined, { ada: { name: 'Ada' } })
  expect(unpaid).toMatchObject(refusal(422, 'datanet_rejected', 'contributors.json'))
  expect(unpaid.body.error.message).toContain('ada: payee')
  expect(await ada.send('a/b')).toMatchObject(refusal(400, 'invalid_request', 'id'))
  const form = createDatanetForm('bad', [], {})
  form.append('files', new Blob(['x']), 'more.zip')
  expect(await ada.call('POST', '/v1/datanets', form)).toMatchObject(
    refusal(422, 'datanet_rejected', 'more.zip'),
  )
  const large = createDatanetForm('bad', [teach('1', 'x'.repeat(4 * 1024 * 1024))], CONTRIBUTORS)
  expect(await ada.call('POST', '/v1/datanets', large)).toMatchObject(
    refusal(413, 'request_too_large', 'files'),
  )
  const filling = await ada.send('bad', [teach('1', 'x'.repeat(20_000))])
  expect(filling).toMatchObject(refusal(422, 'datanet_rejected', 'datanet.jsonl'))
  expect(filling.body.error.message).toContain('at most 20000 bytes')
  expect((await ada.call('GET', '/v1/datanets')).body.data).toEqual([])
  for (const id of ['a', 'b', 'c']) expect(await ada.send(id)).toMatchObject({ status: 201 })
  const fourth = await ada.send('d')
  expect(fourth).toMatchObject(refusal(422, 'datanet_rejected', 'id'))
  expect(fourth.body.error.message).toContain('3')
})

test('files that changed on disk are not served under the old digest', async () => {
  const ada = (await start())(ADA)
  await ada.send('sayings')
  const file = join(scratch, 'store', 'datanets', 'content', `${ADA}@sayings`, 'datanet.jsonl')
  await appendFile(file, JSON.stringify(teach('two', 'more')))
  expect(await ada.register('keeper', 'sayings')).toMatchObject(
    refusal(422, 'adapter_rejected', 'datanet'),
  )
})
