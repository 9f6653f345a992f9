import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LoraSlots } from '../../../gpu-backend/compute/lora-slots.ts'
import type { Tensor } from '../../../gpu-backend/compute/session.ts'
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

/** The ranks of each token in group `o`, as [first, count]. */
function ranksOf(feeds: Record<string, Tensor>): [number, number][] {
  const { data, dims } = feeds['lora.o.mask']!
  const [, rankCount = 0] = dims
  const [tokenCount = 0] = feeds['lora.kept']!.dims
  return Array.from({ length: tokenCount }, (_, t) => {
    const own = Array.from(data.slice(t * rankCount, (t + 1) * rankCount), Number)
    return [own.indexOf(1), own.filter((bit) => bit === 1).length]
  })
}

test('in any order of batches an adapter has its own ranks, in place for exact sums, holding its weights', () => {
  const batches = fc.array(fc.uniqueArray(fc.nat(RANKS.length - 1), { maxLength: 6 }), {
    maxLength: 12,
  })
  fc.assert(
    fc.property(batches, (steps) => {
      const slots = createSlots()
      for (const batch of steps) {
        const feeds = slots.feed([null, ...batch.map((i) => adapters[i]!.digest)])
        const [base, ...ranks] = ranksOf(feeds)
        expect(base).toEqual([-1, 0])
        expect(feeds['lora.o.on']!.data[0]).toBe(batch.length > 0 ? 1 : 0)
        const taken = new Set<number>()
        ranks.forEach(([first, count], b) => {
          const adapter = adapters[batch[b]!]!
          const module = adapter.modules.get('1.o')!
          expect(count).toBe(2 ** Math.ceil(Math.log2(module.rank)))
          expect(first % count).toBe(0)
          for (let r = first; r < first + count; r++) {
            expect(taken.has(r)).toBe(false)
            taken.add(r)
          }
          const a = feeds['lora.o.a.1']!.data
          const bData = feeds['lora.o.b.1']!.data
          const last = module.rank - 1
          expect(a[(first + last) * 64]).toBe(module.a[last * 64])
          expect(bData[(first + last) * 64]).toBe(Math.fround(module.b[last * 64]! * module.scale))
        })
      }
    }),
    { seed: 1, numRuns: 30 },
  )
})

test('an adapter stays where it is while others come and go', () => {
  const slots = createSlots()
  const [small, large] = [adapters[2]!.digest, adapters[5]!.digest]
  const before = ranksOf(slots.feed([small, large]))
  expect(ranksOf(slots.feed([large]))).toEqual([before[1]])
  expect(ranksOf(slots.feed([large, small]))).toEqual([before[1], before[0]])
})

test('what is fed shrinks again when the large adapters left', () => {
  const slots = createSlots()
  slots.feed(adapters.map(({ digest }) => digest))
  expect(slots.feed([adapters[0]!.digest])['lora.o.mask']!.dims).toEqual([2, 16])
})

test('an unloaded adapter is gone, and an unknown one is an assertion failure', () => {
  const slots = createSlots()
  const { digest } = adapters[0]!
  slots.feed([digest])
  slots.unload(digest)
  expect(slots.has(digest)).toBe(false)
  expect(() => slots.feed([digest])).toThrow('is loaded')
})
