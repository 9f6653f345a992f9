import { expect, test } from 'vitest'
import { drawUniform, philox4x32 } from '../../../gpu-backend/decode/philox.ts'

const ONES = 0xffffffff

test('gives the known answers of the Random123 distribution', () => {
  const hex = (words: readonly number[]) => words.map((word) => word.toString(16).padStart(8, '0'))
  expect(hex(philox4x32([0, 0, 0, 0], [0, 0]))).toEqual([
    '6627e8d5',
    'e169c58d',
    'bc57ac4c',
    '9b00dbd8',
  ])
  expect(hex(philox4x32([ONES, ONES, ONES, ONES], [ONES, ONES]))).toEqual([
    '408f276d',
    '41c83b0e',
    'a20bc7c6',
    '6d5451fd',
  ])
  const pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344] as const
  expect(hex(philox4x32(pi, [0xa4093822, 0x299f31d0]))).toEqual([
    'd16cfe09',
    '94fdcceb',
    '5001e420',
    '24126ea1',
  ])
})

test('draws from [0, 1), evenly, and by seed and position alone', () => {
  const draws = Array.from({ length: 4000 }, (_, position) => drawUniform([7, 9], position))
  expect(draws.every((draw) => draw >= 0 && draw < 1)).toBe(true)
  for (const tenth of Array.from({ length: 10 }, (_, index) => index)) {
    const count = draws.filter((draw) => Math.floor(draw * 10) === tenth).length
    expect(count).toBeGreaterThan(330)
    expect(count).toBeLessThan(470)
  }
  expect(drawUniform([7, 9], 3)).toBe(draws[3])
  expect(drawUniform([7, 10], 3)).not.toBe(draws[3])
  expect(drawUniform([8, 9], 3)).not.toBe(draws[3])
})
