import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LoraSlots } from '../../../gpu-backend/compute/lora-slots.ts'
import type { Tensor } from '../../../gpu-backend/compute/session.ts'
import { resultsOf } from '../../support/lora-feeds.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { TINY_CONFIG } from '../../support/random-model.ts'

const RANKS = [1, 3, 8, 16, 24, 64, 100, 128, 256]
const adapters = RANKS.map((rank, seed) =>
  createRandomAdapter({ seed, config: TINY_CONFIG, rank, linears: ['o'] }),
)

function createSlots(): LoraSlots {
  const slots = new LoraSlots(TINY_CONFIG)
  for (const adapter of adapters) slots.load(adapter)
  return slots
}

function feedOne(slots: LoraSlots, digests: readonly (string | null)[]): Record<string, Tensor> {
  return slots.feed([digests])[0]!
}

/** The tiles of each token in group `o`, in order. */
function tilesOf(feeds: Record<string, Tensor>): number[][] {
  return resultsOf(feeds, 'o').map((results) => results.map(({ tile }) => tile))
}

test('in any order of batches an adapter has tiles of its own that hold its weights', () => {
  const batches = fc.array(fc.uniqueArray(fc.nat(RANKS.length - 1), { maxLength: 6 }), {
    maxLength: 12,
  })
  fc.assert(
    fc.property(batches, (steps) => {
      const slots = createSlots()
      for (const batch of steps) {
        // The first adapter of a batch has two tokens.
        const used = batch.map((i) => adapters[i]!)
        const digests = [null, ...used, ...used.slice(0, 1)].map((own) => own?.digest ?? null)
        const feeds = feedOne(slots, digests)
        const [base, ...tiles] = tilesOf(feeds)
        expect(base).toEqual([])
        expect(feeds['lora.o.on']!.data[0]).toBe(batch.length > 0 ? 1 : 0)
        if (used.length > 0) expect(tiles.pop()).toEqual(tiles[0])
        expect(new Set(tiles.flat()).size).toBe(tiles.flat().length)
        tiles.forEach((own, b) => {
          const module = used[b]!.modules.get('1.o')!
          const [first = 0] = own
          expect(own).toEqual(
            Array.from({ length: Math.ceil(module.rank / 16) }, (_, w) => first + w),
          )
          const a = feeds['lora.o.a.1']!.data
          const bData = feeds['lora.o.b.1']!.data
          const last = module.rank - 1
          const at = (16 * first + last) * 64
          expect(a[at]).toBe(module.a[last * 64])
          expect(bData[at]).toBe(Math.fround(module.b[last * 64]! * module.scale))
        })
      }
    }),
    { seed: 1, numRuns: 30 },
  )
})

test('an adapter stays where it is while others come and go', () => {
  const slots = createSlots()
  const [small, large] = [adapters[2]!.digest, adapters[5]!.digest]
  const before = tilesOf(feedOne(slots, [small, large]))
  expect(tilesOf(feedOne(slots, [large]))).toEqual([before[1]])
  expect(tilesOf(feedOne(slots, [large, small]))).toEqual([before[1], before[0]])
})

test('what is fed shrinks again when the large adapters left', () => {
  const slots = createSlots()
  feedOne(
    slots,
    adapters.map(({ digest }) => digest),
  )
  expect(feedOne(slots, [adapters[0]!.digest])['lora.o.tokens']!.dims).toEqual([2, 1, 1])
})

test('an unloaded adapter is gone, and an unknown one is an assertion failure', () => {
  const slots = createSlots()
  const { digest } = adapters[0]!
  feedOne(slots, [digest])
  slots.unload(digest)
  expect(slots.has(digest)).toBe(false)
  expect(() => feedOne(slots, [digest])).toThrow('is loaded')
})
