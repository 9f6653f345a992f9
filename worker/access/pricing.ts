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

/** A price that takes the place of the one before it. */
export interface PriceChange {
  /** From this millisecond on. */
  readonly atMs: number
  readonly price: Price
}

/** What is known of a price around a moment: which version is in force is decided at admission. */
export interface Tariff {
  /** In force until the first change. */
  readonly price: Price
  /** In the order of time; nearly always none. */
  readonly priceChanges: readonly PriceChange[]
}

/** The version that is in force at a moment. */
export function priceAt({ price, priceChanges }: Tariff, atMs: number): Price {
  return priceChanges.findLast((change) => change.atMs <= atMs)?.price ?? price
}

/** The most that some usage can cost, whichever version is in force when it is admitted. */
export function priceWorstCase({ price, priceChanges }: Tariff, counts: TokenCounts): number {
  const prices = [price, ...priceChanges.map((change) => change.price)]
  return Math.max(...prices.map((each) => priceUsage(each, counts)))
}
