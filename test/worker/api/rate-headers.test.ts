import { expect, test } from 'vitest'
import { formatDuration } from '../../../worker/api/rate-headers.ts'

test.each([
  [0, '0ms'],
  [199.2, '200ms'],
  [1_000, '1s'],
  [7_655, '7.66s'],
  [90_000, '1m30s'],
  [59_999, '1m0s'],
  [3_600_000, '1h0m0s'],
])('%s ms is written as %s', (durationMs, text) => {
  expect(formatDuration(durationMs)).toBe(text)
})
