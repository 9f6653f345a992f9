import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  feedProducts,
  MIN_TILES,
  planProducts,
  type RunSlot,
} from '../../../gpu-backend/compute/lora-products.ts'
import { resultsOf } from '../../support/lora-feeds.ts'

/** A run of adapters with so many tiles and tokens each, with unused tiles before them, and tokens of the base model last. */
function createRun(adapters: readonly { size: number; tokenCount: number; gap: number }[]) {
  let tileCount = 0
  let tokenCount = 0
  const slots = adapters.map(({ size, tokenCount: own, gap }): RunSlot => {
    const start = tileCount + gap
    const tokens = Array.from({ length: own }, (_, i) => tokenCount + i)
    tileCount = start + size
    tokenCount += own
    return { start, size, tokens }
  })
  return { slots, tileCount: Math.max(MIN_TILES, tileCount), tokenCount: tokenCount + 2 }
}

test('each token is multiplied by the tiles of its adapter in their order, once each, and none by another', () => {
  const adapters = fc.array(
    fc.record({
      size: fc.integer({ min: 1, max: 16 }),
      tokenCount: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 300 })),
      gap: fc.oneof(fc.constant(0), fc.nat(3)),
    }),
    { maxLength: 8 },
  )
  let copyCount = 0
  fc.assert(
    fc.property(adapters, (planned) => {
      const run = createRun(planned)
      const results = resultsOf(feedProducts('o', run), 'o')
      const expected: number[][] = results.map(() => [])
      for (const { start, size, tokens } of run.slots) {
        for (const token of tokens) {
          expected[token] = Array.from({ length: size }, (_, w) => start + w)
        }
      }
      expect(results.map((own) => own.map(({ tile }) => tile))).toEqual(expected)
      copyCount += results.flat().filter(({ isCopy }) => isCopy).length
    }),
    { seed: 1, numRuns: 200 },
  )
  expect(copyCount).toBeGreaterThan(0)
})

test('beside a chunk, rows that decode are not as wide as it is', () => {
  const decode = Array.from({ length: 23 }, () => ({ size: 1, tokenCount: 1, gap: 0 }))
  const chunk = { size: 1, tokenCount: 64, gap: 0 }
  const { slots, tileCount } = createRun([...decode, chunk])
  const { width, copyWidth, copyCount } = planProducts(slots, tileCount)
  expect(width).toBe(1)
  expect(copyWidth * copyCount).toBe(64)
})

test('tiles of about as many tokens each are not copied', () => {
  const decode = Array.from({ length: 16 }, () => ({ size: 1, tokenCount: 1, gap: 0 }))
  const { slots, tileCount } = createRun([...decode, { size: 1, tokenCount: 2, gap: 0 }])
  expect(planProducts(slots, tileCount)).toEqual({ width: 2, copyWidth: 1, copyCount: 0 })
})
