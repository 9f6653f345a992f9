import fc from 'fast-check'
import { expect, test } from 'vitest'
import { sortSuffixes } from '../../../gpu-backend/attribution/suffix-order.ts'

test('the order is that of comparing value by value', () => {
  const value = fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 2 }))
  fc.assert(
    fc.property(fc.array(value, { maxLength: 40 }), (values) => {
      const text = Int32Array.from([...values, -1], (each, place) => (each < 0 ? -1 - place : each))
      const slowly = [...text.keys()].sort((a, b) => {
        let length = 0
        while (a !== b && text[a + length] === text[b + length]) length += 1
        return text[a + length]! - text[b + length]!
      })
      expect([...sortSuffixes(text)]).toEqual(slowly)
    }),
    { seed: 11, numRuns: 500 },
  )
})
