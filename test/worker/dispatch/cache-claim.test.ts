import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Digest } from '../../../protocol/digest.ts'
import {
  canonicalise,
  composeCacheClaim,
  wantsCache,
} from '../../../worker/dispatch/cache-claim.ts'
import type { GenerationRequest } from '../../../worker/dispatch/generation-request.ts'

fc.configureGlobal({ seed: 1 })

const digest = (character: string): Digest => `0x${character.repeat(64)}`
const target = {
  backendId: 'b',
  model: { id: 'm', object: 'model' as const, created: 0, owned_by: 'test' },
  modelDigest: digest('a'),
  adapterDigest: digest('b'),
  merge: null,
}

function compose(body: object, endpoint: GenerationRequest['endpoint'] = 'completions') {
  return { endpoint, body, merge: null } as unknown as GenerationRequest // what a claim is made from
}

function reorder(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reorder)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([name, each]) => [name, reorder(each)])
  return Object.fromEntries(entries.reverse())
}

test('the same JSON is the same text in whatever order, and other JSON another', () =>
  fc.assert(
    fc.property(fc.jsonValue(), fc.jsonValue(), (a, b) => {
      const text = canonicalise(a)
      expect(canonicalise(reorder(JSON.parse(JSON.stringify(a, null, 2))))).toBe(text)
      expect(JSON.parse(text)).toEqual(JSON.parse(JSON.stringify(a)))
      const isSame =
        JSON.stringify(JSON.parse(canonicalise(b))) === JSON.stringify(JSON.parse(text))
      expect(canonicalise(b) === text).toBe(isSame)
    }),
  ))

test('other weights, another operation or another word are another entry', async () => {
  const keyOf = async (body: object, changes = {}, endpoint?: GenerationRequest['endpoint']) =>
    (await composeCacheClaim(compose(body, endpoint), { ...target, ...changes }))?.key
  const keys = await Promise.all([
    keyOf({ prompt: 'x' }),
    keyOf({ prompt: 'x ' }),
    keyOf({ prompt: 'x', n: 1 }),
    keyOf({ prompt: 'x' }, { modelDigest: digest('c') }),
    keyOf({ prompt: 'x' }, { adapterDigest: digest('c') }),
    keyOf({ prompt: 'x' }, { adapterDigest: null }),
    keyOf({ prompt: 'x' }, {}, 'embeddings'),
  ])
  expect(new Set(keys).size).toBe(keys.length)
  expect(await keyOf({ n: 1, prompt: 'x' })).toBe(keys[2])
  expect(await keyOf({ prompt: 'x' }, { modelDigest: null })).toBeUndefined()
  const unnamed = { model: { ...target.model, parent: 'base' }, adapterDigest: null }
  expect(await keyOf({ prompt: 'x' }, unnamed)).toBeUndefined()
})

test.each([
  [{}, true],
  [{ temperature: 0.1 }, true],
  [{ seed: 2 ** 53 }, true],
  [{ temperature: 0 }, false],
  [{ temperature: 1, seed: 7 }, false],
])('%j is left to chance: %s', (body, isRefused) => {
  const ask = () => wantsCache(compose({ ...body, tallygate: { cache: true } }))
  if (isRefused) expect(ask).toThrow(/^tallygate\.cache: needs a temperature of 0 or a seed/)
  else expect(ask()).toBe(true)
  expect(wantsCache(compose({ ...body, tallygate: { cache: false } }))).toBe(false)
  expect(wantsCache(compose(body))).toBe(false)
})
