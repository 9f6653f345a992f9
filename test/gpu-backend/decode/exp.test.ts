import fc from 'fast-check'
import { expect, test } from 'vitest'
import { expNegative } from '../../../gpu-backend/decode/exp.ts'

test('is the power of e, within 1e-13 of it', () => {
  fc.assert(
    fc.property(fc.double({ min: -690, max: 0, noNaN: true }), (x) => {
      expect(Math.abs(expNegative(x) / Math.exp(x) - 1)).toBeLessThan(1e-13)
    }),
    { numRuns: 5000 },
  )
  expect([0, -700, Number.NEGATIVE_INFINITY].map(expNegative)).toEqual([1, 0, 0])
})
