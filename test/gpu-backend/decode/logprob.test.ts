import { expect, test } from 'vitest'
import { measureLogprob } from '../../../gpu-backend/decode/logprob.ts'

const logits = Float32Array.from([1, 3, 2, 3, -Infinity])

test('probabilities of all tokens add up to one, likeliest first, of equal ones the first', () => {
  const { logprob, top } = measureLogprob(logits, 2, 5)
  expect(top.map(([id]) => id)).toEqual([1, 3, 2, 0, 4])
  expect(top.reduce((sum, [, value]) => sum + Math.exp(value), 0)).toBeCloseTo(1, 12)
  expect(logprob).toBe(top[2]![1])
  expect(top[4]![1]).toBe(-Infinity)
})

test('only as many are told as are wanted', () => {
  expect(measureLogprob(logits, 0, 0).top).toEqual([])
  expect(measureLogprob(logits, 0, 2).top.map(([id]) => id)).toEqual([1, 3])
})
