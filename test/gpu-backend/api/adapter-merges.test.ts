import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { digestMerge } from '../../../protocol/adapter-merge.ts'
import { type Digest, ZERO_DIGEST } from '../../../protocol/digest.ts'
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
  for (const close of closes.splice(0)) await close()
})

async function start(options: TestBackendOptions = {}) {
  backend = await startTestBackend(options)
  closes.push(backend.close)
}

// biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
type Answer = { status: number; body: any }

async function call(method: string, path: string, body?: object): Promise<Answer> {
  const init = { method, ...(body && { body: JSON.stringify(body) }) }
  const response = await fetch(backend.url + path, init)
  return { status: response.status, body: await response.json() }
}

/** Of q: 1024 bytes of memory a rank of 4. */
const SIZE_BYTES = 1024
const OWNERS = ['a', 'b', 'c'].map((name) => `0x${name.repeat(40)}` as const)

async function register(id: string, options: PeftAdapterOptions = {}): Promise<Digest> {
  const manifest = { id, owner: `0x${id.repeat(40)}` }
  const all = { modules: ['q'], seed: id.charCodeAt(0), manifest, ...options } as const
  await writePeftAdapter(join(backend.adaptersDir, id), TINY_CONFIG, all)
  const { status, body } = await call('POST', '/v1/adapters', { path: id })
  expect(status).toBe(201)
  return body.digest
}

const of = (...ids: readonly string[]) => ids.map((id) => ({ id }))
const ask = (tallygate: object, fields: object = {}) =>
  call('POST', '/v1/completions', {
    model: 'tiny',
    prompt: 'x',
    max_tokens: 2,
    tallygate,
    ...fields,
  })
const find = async (id: string) => (await call('GET', `/v1/adapters/${id}`)).body
const metric = async (name: string) => {
  const text = await (await fetch(`${backend.url}/metrics`)).text()
  return Number(new RegExp(`^tallygate:${name} (\\d+)$`, 'm').exec(text)?.[1])
}

test('chat, completions and embeddings run on a merge, which is named by what it is made of', async () => {
  await start()
  const [a, b] = [await register('a'), await register('b', { rank: 8 })]
  const members = [
    { digest: a, owner: OWNERS[0]!, weightPpm: 1_000_000 },
    { digest: b, owner: OWNERS[1]!, weightPpm: 333_333 },
  ].sort((one, other) => (one.digest < other.digest ? -1 : 1))
  const digest = digestMerge({ method: 'linear', densityPpm: null, members })
  const merge = {
    method: 'linear',
    density_ppm: null,
    members: members.map(({ weightPpm: weight_ppm, ...rest }) => ({ ...rest, weight_ppm })),
  }
  const tallygate = { adapters: [{ id: 'a' }, { id: 'tiny:b', weight: 1 / 3 }], attribution: true }
  const model = 'tiny'
  const answers = [
    await ask(tallygate),
    await ask({ adapters: tallygate.adapters.toReversed(), merge: 'linear' }),
    await call('POST', '/v1/chat/completions', {
      model,
      tallygate,
      messages: [{ role: 'user', content: 'Hi' }],
    }),
  ]
  for (const { status, body } of answers) {
    expect(status).toBe(200)
    expect(body.tallygate).toMatchObject({ adapter_digest: digest, adapter_owner: null, merge })
  }
  expect(backend.engine.requests.map(({ adapter }) => adapter)).toEqual([digest, digest, digest])
  await call('POST', '/v1/embeddings', { model, input: 'x', tallygate })
  expect(backend.engine.requests.at(-1)).toMatchObject({ adapter: digest, embed: true })
  expect(await metric('adapter_loads_total')).toBe(1)
  expect([...backend.engine.loadedDigests]).toEqual([digest])
  expect(await metric('adapter_ram_bytes')).toBe(3 * SIZE_BYTES)
})

test('requests for one cold merge share it, nobody else waits for it, and its members stay', async () => {
  const held = Promise.withResolvers<void>()
  await start({
    loadAdapter: ({ modules }) =>
      modules.get('0.q')?.rank === 8 ? held.promise : Promise.resolve(),
  })
  await register('a')
  await register('b')
  const waiting = [ask({ adapters: of('a', 'b') }), ask({ adapters: of('b', 'a') })]
  while ((await find('a')).requests_in_flight < 2);
  expect((await ask({}, { model: 'a' })).status).toBe(200)
  expect((await ask({})).status).toBe(200)
  let isDeleted = false
  const deletion = call('DELETE', '/v1/adapters/a').then((answer) => {
    isDeleted = true
    return answer
  })
  while ((await find('a')).state !== 'unloading');
  expect(await ask({ adapters: of('a', 'b') })).toMatchObject({
    status: 404,
    body: { error: { code: 'model_not_found', param: 'tallygate.adapters[0].id' } },
  })
  expect(isDeleted).toBe(false)
  held.resolve()
  const answers = await Promise.all(waiting)
  for (const { status } of answers) expect(status).toBe(200)
  expect((await deletion).status).toBe(200)
  expect(await metric('adapter_loads_total')).toBe(2)
  // What was made of the deleted adapter is gone too.
  expect([...backend.engine.loadedDigests]).toEqual([])
})

test('a merge makes room for others, and is made anew as the same', async () => {
  await start({ ramBudgetBytes: 4 * SIZE_BYTES })
  for (const id of ['a', 'b', 'c']) await register(id)
  const digestOf = async (...ids: readonly string[]) => {
    const answer = await ask({ adapters: of(...ids), merge: 'dare_ties', density: 0.5 })
    return answer.body.tallygate.adapter_digest
  }
  const first = await digestOf('a', 'b')
  expect(await digestOf('b', 'c')).not.toBe(first)
  expect(await digestOf('a', 'c')).not.toBe(first)
  expect(backend.engine.loadedDigests).not.toContain(first)
  expect(await digestOf('a', 'b')).toBe(first)
  expect(await metric('adapter_loads_total')).toBe(4)
})

test('a member that is registered anew makes another merge', async () => {
  await start()
  await register('a')
  await register('b')
  const before = (await ask({ adapters: of('a', 'b') })).body.tallygate
  await register('a', { seed: 77 })
  const after = (await ask({ adapters: of('a', 'b') })).body.tallygate
  expect(after.adapter_digest).not.toBe(before.adapter_digest)
})

test('who supports an answer is paid by what the index says and what the adapter counts', async () => {
  const contributor = (name: string, weightPpm: number) => ({
    contributor: name,
    payee: `0x${name.charCodeAt(0).toString(16).repeat(20)}` as const,
    weightPpm,
  })
  const index = (byte: string, contributors: ReturnType<typeof contributor>[]) => ({
    digest: `0x${byte.repeat(32)}` as const,
    attribute: () => ({
      contributors,
      spans: contributors.map(({ contributor: name }) => ({
        start: name.charCodeAt(0) - 97,
        end: 3,
        datumId: name,
        contributor: name,
      })),
    }),
  })
  await start({
    attributors: {
      one: index('11', [contributor('c', 750_000), contributor('a', 250_000)]),
      two: index('22', [contributor('b', 1_000_000)]),
      none: index('33', []),
    },
  })
  await register('a', { manifest: { id: 'a', datanet: 'one' } })
  await register('b', { manifest: { id: 'b', datanet: 'two' } })
  await register('c', { manifest: { id: 'c', datanet: 'none' } })
  await register('d', { manifest: { id: 'd', datanet: 'one' } })
  await register('e')
  const adapters = [
    { id: 'a', weight: 0.5 },
    { id: 'b', weight: 2 },
    { id: 'c', weight: 10 },
    { id: 'd', weight: 0.5 },
    { id: 'e', weight: 3 },
  ]
  const { tallygate } = (await ask({ adapters })).body
  expect(
    tallygate.contributors.map((credit: { contributor: string; weight_ppm: number }) => [
      credit.contributor,
      credit.weight_ppm,
    ]),
  ).toEqual([
    ['b', 666_667],
    ['c', 250_000],
    ['a', 83_333],
  ])
  expect(tallygate.spans.map((span: { datum_id: string }) => span.datum_id)).toEqual([
    'a',
    'b',
    'c',
  ])
  const lines = ['11 1000000', '22 2000000', '33 10000000'].map((line) => {
    const [byte, weight] = line.split(' ')
    return `0x${byte?.repeat(32)} ${weight}\n`
  })
  const hash = createHash('sha256').update(`tallygate attribution merge 1\n${lines.join('')}`)
  expect(tallygate.attribution_digest).toBe(`0x${hash.digest('hex')}`)
  const same = await ask({ adapters: of('a', 'd', 'e') })
  expect(same.body.tallygate.attribution_digest).toBe(`0x${'11'.repeat(32)}`)
  const nobody = await ask({ adapters: of('e') })
  expect(nobody.body.tallygate).toMatchObject({
    attribution_digest: ZERO_DIGEST,
    contributors: [],
  })
})

test.each<[object, number, string, object?]>([
  [{ adapters: [] }, 400, 'tallygate.adapters'],
  [{ adapters: 'a' }, 400, 'tallygate.adapters'],
  [{ adapters: 'abcdefghi'.split('').map((id) => ({ id })) }, 400, 'tallygate.adapters'],
  [{ adapters: [{ weight: 1 }] }, 400, 'tallygate.adapters[0].id'],
  [{ adapters: of('a', 'a') }, 400, 'tallygate.adapters[1].id'],
  [{ adapters: [{ id: 'a', weight: 0 }] }, 400, 'tallygate.adapters[0].weight'],
  [{ adapters: [{ id: 'a', weight: -1 }] }, 400, 'tallygate.adapters[0].weight'],
  [{ adapters: [{ id: 'a', weight: 10.1 }] }, 400, 'tallygate.adapters[0].weight'],
  [{ adapters: [{ id: 'a', weight: 1e-7 }] }, 400, 'tallygate.adapters[0].weight'],
  [{ adapters: [{ id: 'a', weight: '1' }] }, 400, 'tallygate.adapters[0].weight'],
  [{ adapters: of('a'), merge: 'svd' }, 400, 'tallygate.merge'],
  [{ merge: 'linear' }, 400, 'tallygate.merge'],
  [{ density: 0.5 }, 400, 'tallygate.density'],
  [{ adapters: of('a'), density: 0.5 }, 400, 'tallygate.density'],
  [{ adapters: of('a'), merge: 'ties' }, 400, 'tallygate.density'],
  [{ adapters: of('a'), merge: 'ties', density: 0 }, 400, 'tallygate.density'],
  [{ adapters: of('a'), merge: 'ties', density: 1.5 }, 400, 'tallygate.density'],
  [{ adapters: of('a') }, 400, 'model', { model: 'a' }],
  [{ adapters: of('a') }, 404, 'model', { model: 'nobody' }],
  [{ adapters: of('a', 'nobody') }, 404, 'tallygate.adapters[1].id'],
  [{ adapters: of('a', 'b'), merge: 'ties', density: 0.5 }, 422, 'tallygate.adapters'],
  [{ adapters: of('a', 'c') }, 422, 'tallygate.adapters'],
])('refuses %j with %i naming %s', async (tallygate, status, param, fields) => {
  await start({ ramBudgetBytes: 40 * SIZE_BYTES })
  await register('a')
  await register('b', { rank: 8 })
  await register('c', { rank: 80 })
  const answer = await ask(tallygate, fields)
  expect(answer).toMatchObject({ status, body: { error: { param } } })
  expect(answer.body.error.message).not.toBe('')
  expect((await find('a')).requests_in_flight).toBe(0)
  expect(backend.engine.requests).toHaveLength(0)
})

test('a weight that is no finite number is refused by name', async () => {
  await start()
  await register('a')
  const response = await fetch(`${backend.url}/v1/completions`, {
    method: 'POST',
    body: '{"model":"tiny","prompt":"x","tallygate":{"adapters":[{"id":"a","weight":1e999}]}}',
  })
  expect(response.status).toBe(400)
  expect(await response.json()).toMatchObject({
    error: { param: 'tallygate.adapters[0].weight' },
  })
})

test('a member whose files were changed fails with the reason, until it is registered again', async () => {
  await start()
  await register('a')
  await register('b')
  const changed = { modules: ['q'], seed: 9 } as const
  await writePeftAdapter(join(backend.adaptersDir, 'b'), TINY_CONFIG, changed)
  for (const _ of [1, 2]) {
    const { status, body } = await ask({ adapters: of('a', 'b') })
    expect({ status, param: body.error.param }).toEqual({
      status: 422,
      param: 'tallygate.adapters',
    })
    expect(body.error.message).toContain('was changed since it was registered')
  }
  expect(await metric('adapter_loads_total')).toBe(1)
  await call('POST', '/v1/adapters', { path: 'b' })
  expect((await ask({ adapters: of('a', 'b') })).status).toBe(200)
})
