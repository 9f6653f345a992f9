const MINUTE_MS = 60_000

/** What fills by a limit a minute and holds one minute's worth; kept exact in whole numbers. */
export interface TokenBucket {
  /** Units times 60,000, so that each millisecond adds a whole number. Below zero: a debt. */
  readonly level: number
  readonly updatedAtMs: number
}

/** The largest limit for which every level below the brim is a safe integer. */
export const MAX_LIMIT_PER_MINUTE = 1_000_000_000

/** A full bucket. */
export function createBucket(limitPerMinute: number, nowMs: number): TokenBucket {
  return { level: limitPerMinute * MINUTE_MS, updatedAtMs: nowMs }
}

/** The bucket as it stands at `nowMs`. A clock that went back adds nothing. */
export function refillBucket(
  bucket: TokenBucket,
  limitPerMinute: number,
  nowMs: number,
): TokenBucket {
  const elapsedMs = Math.max(0, nowMs - bucket.updatedAtMs)
  const capacity = limitPerMinute * MINUTE_MS
  return {
    level: Math.min(capacity, bucket.level + limitPerMinute * elapsedMs),
    updatedAtMs: bucket.updatedAtMs + elapsedMs,
  }
}

export type Take =
  | { readonly outcome: 'taken'; readonly bucket: TokenBucket }
  | { readonly outcome: 'refused'; readonly retryAfterMs: number }

/**
 * Takes `count` from a bucket that was refilled just now. A count above the bucket's capacity is
 * let through a full bucket and leaves a debt: such a request is slowed down and not impossible.
 */
export function takeFromBucket(bucket: TokenBucket, limitPerMinute: number, count: number): Take {
  const needed = Math.min(count, limitPerMinute) * MINUTE_MS
  if (bucket.level < needed)
    return {
      outcome: 'refused',
      retryAfterMs: Math.ceil((needed - bucket.level) / limitPerMinute),
    }
  return { outcome: 'taken', bucket: spendFromBucket(bucket, count) }
}

/** Takes `count` whatever the bucket holds. */
export function spendFromBucket(bucket: TokenBucket, count: number): TokenBucket {
  return { ...bucket, level: bucket.level - count * MINUTE_MS }
}

/** Puts back what was taken and not used, never above the brim. The bucket was refilled just now. */
export function returnToBucket(
  bucket: TokenBucket,
  limitPerMinute: number,
  count: number,
): TokenBucket {
  const capacity = limitPerMinute * MINUTE_MS
  return { ...bucket, level: Math.min(capacity, bucket.level + count * MINUTE_MS) }
}

/** Whole units that can be taken now. */
export function remainingInBucket(bucket: TokenBucket): number {
  return Math.max(0, Math.floor(bucket.level / MINUTE_MS))
}

/** Until the bucket is full again. */
export function bucketResetMs(bucket: TokenBucket, limitPerMinute: number): number {
  return Math.ceil((limitPerMinute * MINUTE_MS - bucket.level) / limitPerMinute)
}
