import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { startHubServer } from '../../support/hub-server.ts'
import { type PeftAdapterOptions, writePeftAdapter } from '../../support/peft-adapter.ts'
import {
  startTestBackend,
  type TestBackend,
  type TestBackendOptions,
  TINY_CONFIG,
} from '../../support/test-backend.ts'

let scratch: string
let backend: TestBackend
const closes: (() => Promise<void>)[] = []

beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'tiers-'))
})

afterEach(async () => {
  for (const close of closes.splice(0).reverse()) await close()
  await rm(scratch, { recursive: true })
})

async function start(options: TestBackendOptions = {}) {
  backend = await startTestBackend(options)
  closes.push(backend.close)
  return backend
}

// biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
type Answer = { status: number; body: any }

async function call(method: string, path: string, body?: object | FormData): Promise<Answer> {
  const init = {
    method,
    ...(body && { body: body instanceof FormData ? body : JSON.stringify(body) }),
  }
  const response = await fetch(backend.url + path, init)
  return { status: response.status, body: await response.json() }
}

const ask = (model: string, signal?: AbortSignal) =>
  fetch(`${backend.url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify({ model, prompt: 'x', max_tokens: 1 }),
    ...(signal && { signal }),
  })
const answer = async (model: string) => {
  const response = await ask(model)
  return { status: response.status, body: (await response.json()) as Answer['body'] }
}
const find = async (id: string) => (await call('GET', `/v1/adapters/${id}`)).body
const metrics = async () => (await fetch(`${backend.url}/metrics`)).text()
/** On q of two layers of 16 by 16: 1024 bytes a rank of 4. */
const SIZE_BYTES = 2 * 4 * (16 + 16) * 4
const write = (name: string, options: PeftAdapterOptions = {}) =>
  writePeftAdapter(join(backend.adaptersDir, name), TINY_CONFIG, { modules: ['q'], ...options })

async function registerMany(...names: readonly string[]) {
  for (const [index, name] of names.entries()) {
    await write(name, { seed: index + 1 })
    expect(await call('POST', '/v1/adapters', { path: name })).toMatchObject({ status: 201 })
  }
}

/** The files of a PEFT adapter, made in a folder of their own. */
async function createFiles(options: PeftAdapterOptions = {}) {
  const folder = await mkdtemp(join(scratch, 'peft-'))
  await writePeftAdapter(folder, TINY_CONFIG, { modules: ['q'], ...options })
  const names = await readdir(folder)
  const contents = await Promise.all(names.map((name) => readFile(join(folder, name))))
  return Object.fromEntries(names.map((name, i) => [name, new Uint8Array(contents[i]!)]))
}

function createForm(files: Readonly<Record<string, Uint8Array>>, fields: object = {}) {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  for (const [name, bytes] of Object.entries(files)) {
    form.append('files', new Blob([new Uint8Array(bytes)]), name)
  }
  return form
}

test('a hot adapter never waits for a cold one, and who waits is in the metrics', async () => {
  const held = Promise.withResolvers<void>()
  await start({ loadAdapter: () => (isSlow ? held.promise : Promise.resolve()) })
  let isSlow = false
  await registerMany('hot', 'cold')
  expect((await answer('hot')).status).toBe(200)
  isSlow = true
  const waiting = [answer('cold'), answer('cold')]
  while ((await find('cold')).requests_waiting < 2);
  expect(await find('cold')).toMatchObject({ state: 'loading', requests_in_flight: 0 })
  expect((await answer('hot')).status).toBe(200)
  expect(await metrics()).toContain('running_lora_adapters="",waiting_lora_adapters="cold"')
  held.resolve()
  for (const { status } of await Promise.all(waiting)) expect(status).toBe(200)
  const text = await metrics()
  expect(text).toContain('\ntallygate:adapters{state="ready"} 2\n')
  expect(text).toContain('\ntallygate:adapter_loads_total 2\n')
  expect(text).toContain('\ntallygate:adapter_hits_total 1\n')
  expect(text).toContain(`\ntallygate:adapter_ram_bytes ${2 * SIZE_BYTES}\n`)
})

test('the least recently used idle adapter makes room; one in use never does, and others wait for it', async () => {
  const held = Promise.withResolvers<void>()
  let heldAdapter = ''
  await start({
    ramBudgetBytes: 2 * SIZE_BYTES,
    beforeToken: ({ adapter }) => (adapter === heldAdapter ? held.promise : undefined),
  })
  await registerMany('a', 'b', 'c', 'd')
  for (const name of ['a', 'b', 'a', 'c']) await answer(name)
  const states = async () =>
    Promise.all(['a', 'b', 'c', 'd'].map(async (id) => (await find(id)).state))
  expect(await states()).toEqual(['ready', 'on_disk', 'ready', 'on_disk'])
  expect((await find('b')).events.map((event: { state: string }) => event.state)).toEqual([
    'on_disk',
    'loading',
    'ready',
    'unloading',
    'on_disk',
  ])
  heldAdapter = (await find('a')).digest
  const long = answer('a')
  while ((await find('a')).requests_in_flight === 0);
  await answer('d')
  await answer('b')
  expect(await states()).toEqual(['ready', 'ready', 'on_disk', 'on_disk'])
  heldAdapter = ''
  held.resolve()
  expect((await long).status).toBe(200)
  expect(backend.engine.loadedDigests.size).toBe(2)
})

test('a client that leaves while its adapter waits for room takes nothing and leaves nothing', async () => {
  const held = Promise.withResolvers<void>()
  await start({ ramBudgetBytes: 2 * SIZE_BYTES, beforeToken: () => held.promise })
  await registerMany('a', 'b', 'c')
  const running = [answer('a'), answer('b')]
  while ((await find('a')).requests_in_flight + (await find('b')).requests_in_flight < 2);
  const abort = new AbortController()
  const left = ask('c', abort.signal)
  while ((await find('c')).requests_waiting === 0);
  expect((await find('c')).state).toBe('on_disk')
  abort.abort()
  await expect(left).rejects.toThrow()
  while ((await find('c')).requests_waiting > 0);
  held.resolve()
  await Promise.all(running)
  expect(backend.engine.requests.map(({ adapter }) => adapter)).not.toContain(
    (await find('c')).digest,
  )
  expect(await call('DELETE', '/v1/adapters/c')).toMatchObject({ status: 200 })
})

test('files that were changed after registration fail with the reason, until they are registered again', async () => {
  await start()
  await registerMany('poet')
  await write('poet', { seed: 9 })
  const failed = await answer('poet')
  expect(failed).toMatchObject({ status: 404, body: { error: { code: 'model_not_found' } } })
  expect(failed.body.error.message).toContain('was changed since it was registered')
  expect(await find('poet')).toMatchObject({ state: 'failed', error: { code: 'adapter_rejected' } })
  await write('poet', { seed: 1 })
  expect((await answer('poet')).status).toBe(404)
  backend.clock.nowMs += 5_000
  expect((await answer('poet')).status).toBe(200)
  await write('poet', { seed: 9 })
  expect(await call('POST', '/v1/adapters', { path: 'poet' })).toMatchObject({ status: 201 })
  expect((await answer('poet')).status).toBe(200)
})

test('what would keep others out of memory for good is rejected', async () => {
  await start({ ramBudgetBytes: 4 * SIZE_BYTES, maxAdapterCount: 4 })
  await write('large', { rank: 12 })
  const register = (path: string, fields = {}) => call('POST', '/v1/adapters', { path, ...fields })
  const rejected = (param: string) => ({ status: 422, body: { error: { param } } })
  expect(await register('large')).toMatchObject(rejected('adapter_model.safetensors'))
  await registerMany('a', 'b', 'c')
  expect(await register('a', { pinned: true })).toMatchObject({ body: { state: 'ready' } })
  expect(await register('b', { pinned: true })).toMatchObject({ body: { state: 'ready' } })
  expect(await register('c', { pinned: true })).toMatchObject(rejected('pinned'))
  expect(await register('a', { id: 'e' })).toMatchObject(rejected('id'))
  for (const name of ['c', 'a', 'b', 'c']) expect((await answer(name)).status).toBe(200)
  expect(await metrics()).toContain('\ntallygate:adapter_evictions_total 0\n')
})

test('an upload is stored under its digest, serves, survives a restart and goes when it is deleted', async () => {
  const storeDir = join(scratch, 'store')
  await start({ storeDir })
  const files = await createFiles({ manifest: { id: 'poet', owner: `0x${'1f'.repeat(20)}` } })
  const uploaded = await call('POST', '/v1/adapters', createForm(files))
  expect(uploaded).toMatchObject({
    status: 201,
    body: {
      id: 'poet',
      state: 'on_disk',
      source: { kind: 'upload' },
      owner: `0x${'1f'.repeat(20)}`,
    },
  })
  const { digest } = uploaded.body
  await call('POST', '/v1/adapters', createForm(files, { id: 'twin', pinned: 'true' }))
  expect(await readdir(join(storeDir, 'content'))).toEqual([digest])
  expect(await readdir(join(storeDir, 'incoming'))).toEqual([])
  expect((await answer('poet')).body.tallygate.adapter_digest).toBe(digest)

  await writeFile(join(storeDir, 'incoming/left-over'), '')
  await start({ storeDir })
  expect(await find('poet')).toMatchObject({
    digest,
    state: 'ready',
    owner: `0x${'1f'.repeat(20)}`,
  })
  expect(await find('twin')).toMatchObject({ digest, pinned: true })
  expect((await answer('poet')).body.tallygate.adapter_digest).toBe(digest)
  expect(await readdir(join(storeDir, 'incoming'))).toEqual([])
  await call('DELETE', '/v1/adapters/twin')
  expect((await answer('poet')).status).toBe(200)
  await call('DELETE', '/v1/adapters/poet')
  expect(await readdir(join(storeDir, 'content'))).toEqual([])
  expect(backend.engine.loadedDigests.size).toBe(0)

  await start({ storeDir })
  expect((await call('GET', '/v1/adapters')).body.data).toEqual([])
})

test('an upload whose files are gone after a restart fails by name and can be deleted', async () => {
  const storeDir = join(scratch, 'store')
  await start({ storeDir })
  const form = createForm(await createFiles(), { id: 'poet' })
  const { digest } = (await call('POST', '/v1/adapters', form)).body
  await rm(join(storeDir, 'content', digest), { recursive: true })
  await start({ storeDir })
  expect(await answer('poet')).toMatchObject({ status: 404 })
  expect(await find('poet')).toMatchObject({ state: 'failed', error: { code: 'adapter_rejected' } })
  expect(await call('DELETE', '/v1/adapters/poet')).toMatchObject({ status: 200 })
  expect(await readdir(join(storeDir, 'registrations'))).toEqual([])
})

test('a local folder that was registered by API is registered again after a restart, as it then is', async () => {
  const storeDir = join(scratch, 'store')
  const { adaptersDir } = await start({ storeDir })
  await write('poet')
  const first = await call('POST', '/v1/adapters', { path: 'poet', id: 'mine' })
  await write('poet', { seed: 2 })
  await start({ storeDir, adaptersDir })
  expect(await find('mine')).toMatchObject({ state: 'on_disk', source: { kind: 'folder' } })
  expect((await find('mine')).digest).not.toBe(first.body.digest)
})

test('an upload that is not a PEFT directory is refused with what is wrong, and leaves nothing', async () => {
  const storeDir = join(scratch, 'store')
  await start({ storeDir, diskBudgetBytes: 10_000 })
  const { 'adapter_config.json': config, 'adapter_model.safetensors': weights } =
    await createFiles()
  const files = { 'adapter_config.json': config!, 'adapter_model.safetensors': weights! }
  const bytes = (text: string) => new Uint8Array(Buffer.from(text))
  const header = new Uint8Array(Buffer.from('00002000000000007b7d', 'hex')) // 2 MiB of header
  const large = await createFiles({ modules: ['q', 'gate', 'down'], rank: 8 })
  const cases: readonly (readonly [FormData, number, string | null])[] = [
    [createForm({}), 422, 'id'],
    [createForm(files), 422, 'id'],
    [createForm(files, { id: '../x' }), 400, 'id'],
    [createForm(files, { id: 'tiny' }), 422, 'id'],
    [createForm(files, { id: 'a', pinned: 'yes' }), 400, 'pinned'],
    [createForm({ ...files, 'adapter.zip': bytes('PK') }, { id: 'a' }), 422, 'adapter.zip'],
    [createForm({ 'adapter_model.bin': bytes('') }, { id: 'a' }), 422, 'adapter_model.bin'],
    [createForm({ '../config.json': bytes('') }, { id: 'a' }), 422, '../config.json'],
    [createForm({ 'adapter_config.json': config! }, { id: 'a' }), 422, 'adapter_model.safetensors'],
    [
      createForm({ ...files, 'adapter_model.safetensors': header }, { id: 'a' }),
      422,
      'adapter_model.safetensors',
    ],
    [
      createForm({ ...files, 'adapter_model.safetensors': new Uint8Array(1_000_001) }, { id: 'a' }),
      413,
      'files',
    ],
    [createForm(large, { id: 'a' }), 422, 'adapter_model.safetensors'],
    [createForm({ ...files, 'tallygate.json': bytes('{"id":3}') }), 422, 'tallygate.json'],
  ]
  for (const [form, status, param] of cases) {
    expect(await call('POST', '/v1/adapters', form)).toMatchObject({
      status,
      body: { error: { param } },
    })
  }
  const twice = createForm(files, { id: 'a' })
  twice.append('files', new Blob([]), 'adapter_config.json')
  expect(await call('POST', '/v1/adapters', twice)).toMatchObject({
    status: 422,
    body: { error: { param: 'adapter_config.json' } },
  })
  expect(await readdir(join(storeDir, 'incoming'))).toEqual([])
  expect(await readdir(join(storeDir, 'content'))).toEqual([])
  expect(await readdir(join(storeDir, 'registrations'))).toEqual([])
})

const COMMIT = 'c0'.repeat(20)

async function startHub(repo: string, files: Readonly<Record<string, Uint8Array>>) {
  const hub = await startHubServer(repo, 'main', files, { commit: COMMIT })
  closes.push(hub.close)
  return hub
}

test('a repository of the hub is fetched at a commit, leaves the disk for another, and is fetched again', async () => {
  const files = await createFiles({ seed: 7 })
  const hub = await startHub('ada/poet', files)
  const sizeBytes = Object.values(files).reduce((sum, bytes) => sum + bytes.byteLength, 0)
  await start({
    storeDir: join(scratch, 'store'),
    hubUrl: hub.url,
    diskBudgetBytes: sizeBytes + 100,
    ramBudgetBytes: 2 * SIZE_BYTES,
  })
  const registered = await call('POST', '/v1/adapters', { repo: 'ada/poet' })
  expect(registered).toMatchObject({
    status: 201,
    body: { id: 'poet', source: { kind: 'hub', repo: 'ada/poet', commit: COMMIT } },
  })
  expect((await answer('poet')).body.tallygate.adapter_digest).toBe(registered.body.digest)
  expect(hub.requests).toHaveLength(2)
  expect(
    await call('POST', '/v1/adapters', createForm(await createFiles({ seed: 2 }), { id: 'up' })),
  ).toMatchObject({ status: 201 })
  await registerMany('b', 'c')
  for (const name of ['b', 'c']) await answer(name)
  expect(await find('poet')).toMatchObject({ state: 'registered' })
  expect(await answer('poet')).toMatchObject({ status: 404 })
  expect((await answer('poet')).body.error.message).toContain('does not fit')
  await call('DELETE', '/v1/adapters/up')
  backend.clock.nowMs += 5_000
  const together = await Promise.all([answer('poet'), answer('poet'), answer('poet')])
  for (const { body } of together)
    expect(body.tallygate.adapter_digest).toBe(registered.body.digest)
  expect(hub.requests).toHaveLength(6)
  const states = (await find('poet')).events.map((event: { state: string }) => event.state)
  expect(states.slice(-5)).toEqual(['failed', 'fetching', 'on_disk', 'loading', 'ready'])
})

test('a hub that sends more than it says, packed, is heard no further', async () => {
  const gzip = gzipSync(Buffer.alloc(64_000_000))
  const hub = await startHubServer('ada/poet', 'main', await createFiles(), {
    commit: COMMIT,
    gzip,
  })
  closes.push(hub.close)
  const storeDir = join(scratch, 'store')
  await start({ storeDir, hubUrl: hub.url })
  const before = process.memoryUsage().arrayBuffers
  expect(await call('POST', '/v1/adapters', { repo: 'ada/poet' })).toMatchObject({
    status: 503,
    body: { error: { code: 'adapter_unavailable' } },
  })
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(8_000_000)
  expect(await readdir(join(storeDir, 'incoming'))).toEqual([])
})

test('a hub that lacks the files, lies or is away is told apart', async () => {
  const files = await createFiles()
  const hub = await startHub('ada/poet', { 'adapter_config.json': files['adapter_config.json']! })
  const storeDir = join(scratch, 'store')
  await start({ storeDir, hubUrl: hub.url })
  const register = (body: object) => call('POST', '/v1/adapters', body)
  expect(await register({ repo: 'ada/none' })).toMatchObject({
    status: 422,
    body: { error: { param: 'repo' } },
  })
  expect(await register({ repo: 'ada/poet' })).toMatchObject({
    status: 422,
    body: { error: { param: 'repo' } },
  })
  expect(await find('poet')).toMatchObject({ state: 'failed', error: { param: 'repo' } })
  for (const repo of ['https://x.y/z', '../etc', 'a/b/c', 'a/..']) {
    expect(await register({ repo })).toMatchObject({
      status: 400,
      body: { error: { param: 'repo' } },
    })
  }
  expect(await register({ repo: 'ada/poet', revision: '../../x' })).toMatchObject({ status: 400 })
  expect(await register({ repo: 'ada/poet', path: 'x' })).toMatchObject({ status: 400 })
  await hub.close()
  expect(await register({ repo: 'ada/poet' })).toMatchObject({
    status: 503,
    body: { error: { code: 'adapter_unavailable' } },
  })
  expect(await readdir(join(storeDir, 'incoming'))).toEqual([])
  await start()
  expect(await register({ repo: 'ada/poet' })).toMatchObject({ status: 422 })
})
