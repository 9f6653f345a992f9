import type { LimitSnapshot } from './account-contract.ts'
import type { Budget } from './budget.ts'
import {
  bucketResetMs,
  createBucket,
  refillBucket,
  remainingInBucket,
  returnToBucket,
  type TokenBucket,
  takeFromBucket,
} from './token-bucket.ts'

/** The limits and levels of one scope: of an account, or of one of its keys. Null: no limit here. */
export interface Meter {
  readonly requestsPerMinute: number | null
  readonly tokensPerMinute: number | null
  readonly maxConcurrentRequests: number | null
  readonly budgetMicroUsd: number | null
  readonly spentMicroUsd: number
  /** Levels of the two buckets (token-bucket.ts); they mean nothing where there is no limit. */
  readonly requestLevel: number
  readonly tokenLevel: number
  readonly bucketsUpdatedAtMs: number
}

type Limits = Pick<
  Meter,
  'requestsPerMinute' | 'tokensPerMinute' | 'maxConcurrentRequests' | 'budgetMicroUsd'
>

/** A meter that has spent nothing, its buckets full. */
export function createMeter<T extends Limits>(limits: T, nowMs: number): Meter & T {
  return {
    ...limits,
    spentMicroUsd: 0,
    requestLevel: createBucket(limits.requestsPerMinute ?? 0, nowMs).level,
    tokenLevel: createBucket(limits.tokensPerMinute ?? 0, nowMs).level,
    bucketsUpdatedAtMs: nowMs,
  }
}

/** The meter under other limits: what has flowed in until now did so under the old ones. */
export function changeLimits<T extends Limits>(stored: Meter, limits: T, nowMs: number): Meter & T {
  return { ...refillMeter(stored, nowMs), ...limits }
}

/** What a scope's open reservations hold. */
export interface Held {
  readonly openCount: number
  readonly reservedMicroUsd: number
}

/** The budget of a scope with what is spent and held of it. */
export function budgetOf(meter: Meter, held: Held): Budget {
  return {
    limitMicroUsd: meter.budgetMicroUsd,
    spentMicroUsd: meter.spentMicroUsd,
    reservedMicroUsd: held.reservedMicroUsd,
  }
}

export type MeterTake =
  | { readonly outcome: 'taken'; readonly meter: Meter }
  | {
      readonly outcome: 'refused'
      readonly what: 'requests' | 'tokens'
      readonly retryAfterMs: number
    }

/** Takes one request and its worst case of tokens, or nothing. */
export function takeFromMeter(stored: Meter, tokenCount: number, nowMs: number): MeterTake {
  const meter = refillMeter(stored, nowMs)
  const { requestsPerMinute, tokensPerMinute } = meter
  let { requestLevel, tokenLevel } = meter
  if (requestsPerMinute !== null) {
    const take = takeFromBucket(requestBucket(meter), requestsPerMinute, 1)
    if (take.outcome === 'refused') return { ...take, what: 'requests' }
    requestLevel = take.bucket.level
  }
  if (tokensPerMinute !== null) {
    const take = takeFromBucket(tokenBucket(meter), tokensPerMinute, tokenCount)
    if (take.outcome === 'refused') return { ...take, what: 'tokens' }
    tokenLevel = take.bucket.level
  }
  return { outcome: 'taken', meter: { ...meter, requestLevel, tokenLevel } }
}

/** Adds a fee to what was spent and puts unused tokens back. */
export function settleMeter(
  stored: Meter,
  settled: { readonly feeMicroUsd: number; readonly unusedTokenCount: number },
  nowMs: number,
): Meter {
  const meter = refillMeter(stored, nowMs)
  const { tokensPerMinute } = meter
  return {
    ...meter,
    spentMicroUsd: meter.spentMicroUsd + settled.feeMicroUsd,
    tokenLevel:
      tokensPerMinute === null
        ? meter.tokenLevel
        : returnToBucket(tokenBucket(meter), tokensPerMinute, settled.unusedTokenCount).level,
  }
}

/** What the `x-ratelimit-*` headers say: of key and account, the one that is nearer its end. */
export function snapshotLimits(account: Meter, key: Meter, nowMs: number): LimitSnapshot {
  const meters = [refillMeter(key, nowMs), refillMeter(account, nowMs)]
  const requests = nearestLimit(
    meters.map((meter) => ({ limit: meter.requestsPerMinute, bucket: requestBucket(meter) })),
  )
  const tokens = nearestLimit(
    meters.map((meter) => ({ limit: meter.tokensPerMinute, bucket: tokenBucket(meter) })),
  )
  return {
    requestLimit: requests.limit,
    requestsRemaining: requests.remaining,
    requestResetMs: requests.resetMs,
    tokenLimit: tokens.limit,
    tokensRemaining: tokens.remaining,
    tokenResetMs: tokens.resetMs,
  }
}

function nearestLimit(
  scopes: readonly { readonly limit: number | null; readonly bucket: TokenBucket }[],
): { readonly limit: number; readonly remaining: number; readonly resetMs: number } {
  const limited = scopes.flatMap(({ limit, bucket }) =>
    limit === null
      ? []
      : [{ limit, remaining: remainingInBucket(bucket), resetMs: bucketResetMs(bucket, limit) }],
  )
  const [nearest] = limited.sort((a, b) => a.remaining - b.remaining)
  if (nearest === undefined) throw new Error('An account always has both rate limits.')
  return nearest
}

function refillMeter(meter: Meter, nowMs: number): Meter {
  const request = refillBucket(requestBucket(meter), meter.requestsPerMinute ?? 0, nowMs)
  const token = refillBucket(tokenBucket(meter), meter.tokensPerMinute ?? 0, nowMs)
  return {
    ...meter,
    requestLevel: request.level,
    tokenLevel: token.level,
    bucketsUpdatedAtMs: request.updatedAtMs,
  }
}

function requestBucket(meter: Meter): TokenBucket {
  return { level: meter.requestLevel, updatedAtMs: meter.bucketsUpdatedAtMs }
}

function tokenBucket(meter: Meter): TokenBucket {
  return { level: meter.tokenLevel, updatedAtMs: meter.bucketsUpdatedAtMs }
}
