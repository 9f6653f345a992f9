/** The value that the fraction `share` of the values does not exceed (nearest rank); NaN of none. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

export function median(values: readonly number[]): number {
  const lower = percentile(values, 0.5)
  return values.length % 2 === 1 ? lower : (lower + percentile(values, 0.5 + 1 / values.length)) / 2
}

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

export function spreadOf(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) }
}

/** Ratios of what was measured in the same round, one after the other. */
export function ratios(own: readonly number[], other: readonly number[]): Spread {
  return spreadOf(own.map((value, round) => value / (other[round] ?? Number.NaN)))
}
