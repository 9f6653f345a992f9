import { expect, test } from 'vitest'
import { createPicker, planArrivals } from '../../../bench/engine/workload.ts'
import { createRandom } from '../../support/random.ts'

const OPTIONS = {
  ratePerSecond: 50,
  seconds: 100,
  promptTokens: [8, 64],
  maxTokens: [4, 16],
} as const

test.each([1, 4])(
  'arrivals come at the rate asked for, as irregularly as asked for: cv %d',
  (cv) => {
    const arrivals = planArrivals(createRandom(5), { ...OPTIONS, cv })
    expect(arrivals).toHaveLength(5_000)
    expect(arrivals.at(-1)?.atMs).toBeCloseTo(100_000)
    const gaps = arrivals.map(({ atMs }, i) => atMs - (arrivals[i - 1]?.atMs ?? 0))
    const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length
    const variance = gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / gaps.length
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0)
    expect(Math.abs(Math.sqrt(variance) / mean / cv - 1)).toBeLessThan(0.2)
    const range = (values: readonly number[]) => [Math.min(...values), Math.max(...values)]
    expect(range(arrivals.map(({ promptTokenCount }) => promptTokenCount))).toEqual([8, 64])
    expect(range(arrivals.map(({ maxTokens }) => maxTokens))).toEqual([4, 16])
  },
)

test('Zipf asks for the first most, by rank to the power of −1.1; uniform for each alike', () => {
  const draws = Array.from({ length: 20_000 }, (_, i) => (i + 0.5) / 20_000)
  const count = (popularity: 'zipf' | 'uniform') => {
    const counts = new Array<number>(100).fill(0)
    const pick = createPicker(100, popularity)
    for (const draw of draws) counts[pick(draw)]! += 1
    return counts
  }
  const zipf = count('zipf')
  expect(zipf[0]! / zipf[9]!).toBeCloseTo(10 ** 1.1, 0)
  expect(zipf[99]).toBeGreaterThan(0)
  expect(new Set(count('uniform'))).toEqual(new Set([200]))
})
