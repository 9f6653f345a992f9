import { expect, test } from 'vitest'
import { createDrainRate } from '../../../gpu-backend/engine/drain-rate.ts'

test('promises each caller turned away the next place, by the mean time between ends', () => {
  const rate = createDrainRate(4, 1000)
  rate.noteBusy(0)
  for (const endMs of [40, 40, 120, 200]) rate.noteEnd(endMs)
  expect([1, 2, 3].map(() => rate.promisePlaceMs(200))).toEqual([50, 100, 150])
  expect(rate.promisePlaceMs(300)).toBe(125)
})

test('never promises later than the whole queue takes', () => {
  const rate = createDrainRate(4, 1000)
  rate.noteBusy(0)
  rate.noteEnd(100)
  for (let call = 0; call < 10; call++) rate.promisePlaceMs(100)
  expect(rate.promisePlaceMs(100)).toBe(400)
})

test('assumes the given time until it saw an end, or longer where the queue stands still', () => {
  const rate = createDrainRate(4, 1000)
  rate.noteBusy(0)
  expect(rate.promisePlaceMs(10)).toBe(1000)
  const stuck = createDrainRate(4, 1000)
  stuck.noteBusy(0)
  expect(stuck.promisePlaceMs(5000)).toBe(5000)
})

test('keeps the speed it measured over a time in which nobody waited', () => {
  const rate = createDrainRate(4, 1000)
  rate.noteBusy(0)
  rate.noteEnd(20)
  rate.noteEmpty(20)
  rate.noteEnd(1_000_000)
  rate.noteBusy(2_000_000)
  expect(rate.promisePlaceMs(2_000_000)).toBe(20)
})
