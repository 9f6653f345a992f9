/** One version of a price. Amounts are micro-USD for a million tokens. */
export interface Price {
  readonly version: number
  readonly promptMicroUsdPerMillion: number
  /** Of prompt tokens that came from the prefix cache. */
  readonly cachedMicroUsdPerMillion: number
  readonly completionMicroUsdPerMillion: number
}

interface TokenCounts {
  readonly promptTokens: number
  /** Contained in `promptTokens`. */
  readonly cachedTokens: number
  readonly completionTokens: number
}

/**
 * The fee of one request in micro-USD, rounded up once, computed in bigint.
 */
export function priceUsage(price: Price, counts: TokenCounts): number {
  const total =
    BigInt(counts.promptTokens - counts.cachedTokens) * BigInt(price.promptMicroUsdPerMillion) +
    BigInt(counts.cachedTokens) * BigInt(price.cachedMicroUsdPerMillion) +
    BigInt(counts.completionTokens) * BigInt(price.completionMicroUsdPerMillion)
  return Number((total + 999_999n) / 1_000_000n)
}
