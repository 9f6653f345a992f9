import type { LimitSnapshot } from './account-contract.ts'
import type { Budget } from './budget.ts'
import {
  bucketResetMs,
  createBucket,
  refillBucket,
  remainingInBucket,
  returnToBucket,
  spendFromBucket,
  type TokenBucket,
  takeFromBucket,
} from './token-bucket.ts'

/** How fast one scope may go, or one model in it, and how far it has gone. Null: no limit here. */
export interface RateMeter {
  readonly requestsPerMinute: number | null
  readonly tokensPerMinute: number | null
  readonly maxConcurrentRequests: number | null
  /** Levels of the two buckets (token-bucket.ts); they mean nothing where there is no limit. */
  readonly requestLevel: number
  readonly tokenLevel: number
  readonly bucketsUpdatedAtMs: number
}

/** The limits and levels of one scope: of an account, or of one of its keys. Null: no limit here. */
export interface Meter extends RateMeter {
  readonly budgetMicroUsd: number | null
  readonly spentMicroUsd: number
}

type RateLimits = Pick<RateMeter, 'requestsPerMinute' | 'tokensPerMinute' | 'maxConcurrentRequests'>

/** A meter that has spent nothing, its buckets full. */
export function createMeter<T extends RateLimits & Pick<Meter, 'budgetMicroUsd'>>(
  limits: T,
  nowMs: number,
): Meter & T {
  return { ...createRateMeter(limits, { nowMs, heldTokenCount: 0 }), spentMicroUsd: 0 }
}

/**
 * A meter whose buckets are full but for the tokens that open requests hold: what they do not use
 * flows back.
 */
export function createRateMeter<T extends RateLimits>(
  limits: T,
  { nowMs, heldTokenCount }: { readonly nowMs: number; readonly heldTokenCount: number },
): RateMeter & T {
  const requests = createBucket(limits.requestsPerMinute ?? 0, nowMs)
  const tokens = createBucket(limits.tokensPerMinute ?? 0, nowMs)
  return {
    ...limits,
    requestLevel: requests.level,
    tokenLevel: spendFromBucket(tokens, heldTokenCount).level,
    bucketsUpdatedAtMs: nowMs,
  }
}

/**
 * The meter under other limits: what has flowed in until now did so under the old ones. A bucket that
 * is limited for the first time is a new one.
 */
export function changeLimits<S extends RateMeter, T extends RateLimits>(
  stored: S,
  limits: T,
  now: { readonly nowMs: number; readonly heldTokenCount: number },
): S & T {
  const { requestLevel, tokenLevel } = createRateMeter(limits, now)
  return {
    ...refillMeter(stored, now.nowMs),
    ...limits,
    ...(stored.requestsPerMinute === null && { requestLevel }),
    ...(stored.tokensPerMinute === null && { tokenLevel }),
  }
}

export function limitsOf(meter: RateMeter): RateLimits {
  const { requestsPerMinute, tokensPerMinute, maxConcurrentRequests } = meter
  return { requestsPerMinute, tokensPerMinute, maxConcurrentRequests }
}

/** A meter as each of so many objects has it that share its limits: together they let through no more. */
export function shareOf<T extends RateMeter>(meter: T, shards: number): T {
  if (shards === 1) return meter
  const divide = (limit: number | null) => limit && Math.floor(limit / shards)
  return {
    ...meter,
    requestsPerMinute: divide(meter.requestsPerMinute),
    tokensPerMinute: divide(meter.tokensPerMinute),
    maxConcurrentRequests: divide(meter.maxConcurrentRequests),
  }
}

/** What open reservations hold of a scope. */
export interface Held {
  readonly openCount: number
  readonly reservedMicroUsd: number
  readonly reservedTokenCount: number
}

export const NOTHING_HELD: Held = { openCount: 0, reservedMicroUsd: 0, reservedTokenCount: 0 }

/** The budget of a scope with what is spent and held of it. */
export function budgetOf(meter: Meter, held: Held): Budget {
  return {
    limitMicroUsd: meter.budgetMicroUsd,
    spentMicroUsd: meter.spentMicroUsd,
    reservedMicroUsd: held.reservedMicroUsd,
  }
}

export type MeterTake<T extends RateMeter> =
  | { readonly outcome: 'taken'; readonly meter: T }
  | {
      readonly outcome: 'refused'
      readonly what: 'requests' | 'tokens'
      /** A minute. */
      readonly limit: number
      readonly retryAfterMs: number
    }

/** Takes one request and its worst case of tokens; or nothing, and names what is the longer in the way. */
export function takeFromMeter<T extends RateMeter>(
  stored: T,
  tokenCount: number,
  nowMs: number,
): MeterTake<T> {
  const meter = refillMeter(stored, nowMs)
  const requests = takeLimited(requestBucket(meter), meter.requestsPerMinute, 1)
  const tokens = takeLimited(tokenBucket(meter), meter.tokensPerMinute, tokenCount)
  if (tokens.outcome === 'refused')
    return requests.outcome === 'refused' && requests.retryAfterMs >= tokens.retryAfterMs
      ? { ...requests, what: 'requests' }
      : { ...tokens, what: 'tokens' }
  if (requests.outcome === 'refused') return { ...requests, what: 'requests' }
  const levels = { requestLevel: requests.bucket.level, tokenLevel: tokens.bucket.level }
  return { outcome: 'taken', meter: { ...meter, ...levels } }
}

/** How long a refusal stands for all that ask for as much, even if every open request gives all of its tokens back. */
export function findStandingMs(
  stored: RateMeter,
  { what, limit, retryAfterMs }: Extract<MeterTake<RateMeter>, { outcome: 'refused' }>,
  asked: { readonly tokenCount: number; readonly heldTokenCount: number; readonly nowMs: number },
): number {
  if (what === 'requests') return retryAfterMs
  const bucket = tokenBucket(refillMeter(stored, asked.nowMs))
  const most = returnToBucket(bucket, limit, asked.heldTokenCount)
  const take = takeFromBucket(most, limit, asked.tokenCount)
  return take.outcome === 'refused' ? take.retryAfterMs : 0
}

function takeLimited(bucket: TokenBucket, limit: number | null, count: number) {
  if (limit === null) return { outcome: 'taken', bucket } as const
  const take = takeFromBucket(bucket, limit, count)
  return take.outcome === 'taken' ? take : { ...take, limit }
}

/** Puts tokens back that were taken and not used. */
export function returnTokens<T extends RateMeter>(
  stored: T,
  unusedTokenCount: number,
  nowMs: number,
): T {
  const meter = refillMeter(stored, nowMs)
  const { tokensPerMinute } = meter
  if (tokensPerMinute === null) return meter
  const { level } = returnToBucket(tokenBucket(meter), tokensPerMinute, unusedTokenCount)
  return { ...meter, tokenLevel: level }
}

/** What the `x-ratelimit-*` headers say: of all limits of a request, the one that is nearest its end. */
export function snapshotLimits(stored: readonly RateMeter[], nowMs: number): LimitSnapshot {
  const meters = stored.map((meter) => refillMeter(meter, nowMs))
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

/** Whole requests and tokens that can be taken now; null where there is no limit. */
export function remainingRates(stored: RateMeter, nowMs: number) {
  const meter = refillMeter(stored, nowMs)
  const { requestsPerMinute, tokensPerMinute } = meter
  return {
    requestsRemaining: requestsPerMinute === null ? null : remainingInBucket(requestBucket(meter)),
    tokensRemaining: tokensPerMinute === null ? null : remainingInBucket(tokenBucket(meter)),
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

function refillMeter<T extends RateMeter>(meter: T, nowMs: number): T {
  const request = refillBucket(requestBucket(meter), meter.requestsPerMinute ?? 0, nowMs)
  const token = refillBucket(tokenBucket(meter), meter.tokensPerMinute ?? 0, nowMs)
  return {
    ...meter,
    requestLevel: request.level,
    tokenLevel: token.level,
    bucketsUpdatedAtMs: request.updatedAtMs,
  }
}

function requestBucket(meter: RateMeter): TokenBucket {
  return { level: meter.requestLevel, updatedAtMs: meter.bucketsUpdatedAtMs }
}

function tokenBucket(meter: RateMeter): TokenBucket {
  return { level: meter.tokenLevel, updatedAtMs: meter.bucketsUpdatedAtMs }
}
