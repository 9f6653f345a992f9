import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { endOfMonth, monthOf, monthSchema, startOfMonth } from '../../../worker/ledger/month.ts'

fc.configureGlobal({ seed: 1 })

test('every millisecond is in exactly one month, which ends where the next begins', () =>
  fc.assert(
    fc.property(fc.integer({ min: 0, max: Date.UTC(9999, 11, 1) }), (atMs) => {
      const month = monthSchema.parse(monthOf(atMs))
      expect(startOfMonth(month)).toBeLessThanOrEqual(atMs)
      expect(endOfMonth(month)).toBeGreaterThan(atMs)
      expect(monthOf(startOfMonth(month))).toBe(month)
      expect(monthOf(endOfMonth(month) - 1)).toBe(month)
      expect(startOfMonth(monthOf(endOfMonth(month)))).toBe(endOfMonth(month))
    }),
  ))

test.each([
  ['2028-02', '2028-03-01T00:00:00.000Z'],
  ['2100-02', '2100-03-01T00:00:00.000Z'],
  ['2026-12', '2027-01-01T00:00:00.000Z'],
])('%s ends in UTC, whatever the time zone', (month, end) => {
  expect(new Date(endOfMonth(month)).toISOString()).toBe(end)
  expect(monthOf(Date.parse(end) - 1)).toBe(month)
  expect(monthOf(Date.parse('2026-11-30T23:59:59.999-12:00'))).toBe('2026-12')
})

test.each(['2026-00', '2026-13', '2026-1', '26-01', '2026-01-01', ' 2026-01'])(
  '%j is no month',
  (text) => expect(monthSchema.safeParse(text).success).toBe(false),
)
