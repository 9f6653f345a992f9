import { z } from 'zod'

/** A calendar month in UTC, `YYYY-MM`. */
export const monthSchema = z.string().regex(/^\d{4}-(0[1-9]|1[0-2])$/, 'must be YYYY-MM')

/** The UTC month that holds a moment of the years 0 to 9999. */
export function monthOf(atMs: number): string {
  return new Date(atMs).toISOString().slice(0, 7)
}

/** The first millisecond of a month. */
export function startOfMonth(month: string): number {
  return Date.parse(`${month}-01T00:00:00.000Z`)
}

/** The first millisecond after it. */
export function endOfMonth(month: string): number {
  const start = new Date(startOfMonth(month))
  return start.setUTCMonth(start.getUTCMonth() + 1)
}
