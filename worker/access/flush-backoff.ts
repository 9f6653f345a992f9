const FIRST_MS = 1_000
const MOST_MS = 60_000

/**
 * How long the ledger is left alone after so many failures in a row: doubles up to a minute; `chance`
 * (0 up to, not including, 1) leaves out up to a half.
 */
export function planBackoffMs(failureCount: number, chance: number): number {
  const wholeMs = Math.min(MOST_MS, FIRST_MS * 2 ** (failureCount - 1))
  return Math.ceil(wholeMs * (1 - chance / 2))
}
