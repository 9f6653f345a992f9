import { expect, test } from 'vitest'
import { createDrainRate } from '../../../gpu-backend/engine/drain-rate.ts'

/** A queue that was busy for 1,000 ends, one each 50 ms, until `nowMs`. */
function createMeasured(capacity: number) {
  const rate = createDrainRate(capacity, 1000)
  rate.noteBusy(0)
  let nowMs = 0
  for (let end = 0; end < 1000; end++) {
    nowMs += 50
    rate.noteEnd(nowMs)
  }
  return { rate, nowMs }
}

test('promises each caller turned away the next place, by the mean time between ends', () => {
  const { rate, nowMs } = createMeasured(40)
  const promises = [1, 2, 3].map(() => rate.promisePlacesMs(nowMs, 1))
  for (const [index, promise] of promises.entries()) {
    expect(Math.abs(promise - 50 * (index + 1))).toBeLessThan(6)
  }
})

test('never promises later than all places take', () => {
  const { rate, nowMs } = createMeasured(4)
  const promises = Array.from({ length: 10 }, () => rate.promisePlacesMs(nowMs, 1))
  expect(Math.max(...promises)).toBe(promises[3])
})

test('assumes the given time until it saw an end, and longer where the queue stands still', () => {
  const rate = createDrainRate(1, 1000)
  rate.noteBusy(0)
  expect(rate.promisePlacesMs(0, 1)).toBe(1000)
  expect(rate.promisePlacesMs(5000, 1)).toBe(6000)
})

test('counts only time in which somebody waits', () => {
  const { rate, nowMs } = createMeasured(1)
  rate.noteEmpty(nowMs)
  rate.noteEnd(nowMs + 1_000_000)
  rate.noteBusy(nowMs + 2_000_000)
  expect(rate.promisePlacesMs(nowMs + 2_000_000, 1)).toBeLessThan(56)
})
