import { describe, expect, it } from 'vitest'
import { decodeBlocks, dequantise } from '../../../gpu-backend/model/ggml-blocks.ts'
import {
  quantiseInt4,
  quantiseInt8,
  quantiseLinear,
  relativeError,
} from '../../../gpu-backend/model/quantise.ts'
import { encodeWeights } from '../../support/encode-weights.ts'
import { createRandom, gaussians } from '../../support/random.ts'

const COUNT = 32 * 2_000

const gaussian = gaussians(createRandom(1), COUNT)
/** Student's t with 4 degrees of freedom: now and then a weight far outside. */
const heavyTailed = (() => {
  const random = createRandom(2)
  const normals = gaussians(random, COUNT * 5)
  return Float32Array.from({ length: COUNT }, (_, i) => {
    const [z = 0, ...others] = normals.subarray(i * 5, i * 5 + 5)
    return z / Math.sqrt(others.reduce((sum, other) => sum + other * other, 0) / 4)
  })
})()

/** What plain min/max rounding loses, written out slowly. */
function minMaxError(values: Float32Array): number {
  let lost = 0
  let whole = 0
  for (let start = 0; start < values.length; start += 32) {
    const block = values.subarray(start, start + 32)
    const low = Math.min(...block)
    const scale = (Math.max(...block) - low) / 15
    for (const value of block) {
      lost += (value - (Math.round((value - low) / scale) * scale + low)) ** 2
      whole += value ** 2
    }
  }
  return Math.sqrt(lost / whole)
}

describe('quantiseInt4', () => {
  it.each([
    ['Gaussian', gaussian, 0.0725],
    ['heavy-tailed', heavyTailed, 0.087],
  ])('loses at least 7 %% less of %s weights than min/max rounding', (_, values, bound) => {
    const error = relativeError(values, quantiseInt4(values))
    expect(error).toBeLessThan(0.93 * minMaxError(values))
    expect(error).toBeLessThan(bound)
  })

  it('gives blocks of its own form back as they were', () => {
    const stored = encodeWeights('Q4_1', gaussian)
    expect(
      relativeError(dequantise('Q4_1', stored), quantiseInt4(dequantise('Q4_1', stored))),
    ).toBe(0)
    expect(quantiseInt4(dequantise('Q4_1', stored))).toEqual(decodeBlocks('Q4_1', stored))
  })

  it('keeps constant blocks, zeros too, exactly', () => {
    for (const value of [0, 0.1, -3]) {
      const values = new Float32Array(64).fill(value)
      expect(relativeError(values, quantiseInt4(values))).toBe(0)
    }
  })
})

describe('quantiseInt8', () => {
  it('loses less than a hundredth', () => {
    expect(relativeError(gaussian, quantiseInt8(gaussian))).toBeLessThan(0.006)
    expect(relativeError(heavyTailed, quantiseInt8(heavyTailed))).toBeLessThan(0.01)
    expect(relativeError(new Float32Array(32), quantiseInt8(new Float32Array(32)))).toBe(0)
  })
})

describe('quantiseLinear', () => {
  it('keeps outliers in int8, the rest in int4', () => {
    expect(quantiseLinear(gaussian).form).toBe('q4')
    expect(quantiseLinear(heavyTailed).form).toBe('q8')
  })
})
