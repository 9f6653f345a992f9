import type { Address, Digest } from '../../protocol/digest.ts'
import type { UsageOutcome } from '../ledger/usage-record.ts'
import type { Price } from './pricing.ts'

/**
 * What crosses the line between a request's isolate and its account's object. One call admits,
 * one call settles; both are idempotent by request id.
 */
export interface AdmitRequest {
  readonly requestId: string
  /** SHA-256 of the whole API key, lower-case hex. */
  readonly keyHash: string
  readonly endpoint: 'chat.completions' | 'completions'
  readonly model: string
  readonly price: Price
  readonly splitVersion: number
  /** The most this request can cost: reserved now, given back by what it did not use. */
  readonly worstCaseMicroUsd: number
  /** The most tokens it can use, taken from the tokens-a-minute bucket. */
  readonly worstCaseTokenCount: number
  /** Where the sweep asks what became of the request if its owner vanishes. */
  readonly backendId: string
}

/** State of the key's limits after the call, for the `x-ratelimit-*` headers. */
export interface LimitSnapshot {
  readonly requestLimit: number
  readonly requestsRemaining: number
  readonly requestResetMs: number
  readonly tokenLimit: number
  readonly tokensRemaining: number
  readonly tokenResetMs: number
}

export type AdmitResult =
  | { readonly outcome: 'admitted'; readonly limits: LimitSnapshot }
  | { readonly outcome: 'unknown_key' }
  | { readonly outcome: 'model_not_allowed' }
  | {
      readonly outcome: 'rate_limited'
      readonly what: 'requests' | 'tokens'
      readonly retryAfterMs: number
      readonly limits: LimitSnapshot
    }
  | { readonly outcome: 'too_many_at_once'; readonly limit: number }
  | {
      readonly outcome: 'over_budget'
      readonly scope: 'key' | 'account'
      readonly limitMicroUsd: number
      readonly spentMicroUsd: number
      readonly reservedMicroUsd: number
    }

/** What the owner of a reservation knows at the end of its request. The object prices it. */
export interface Settlement {
  readonly requestId: string
  readonly outcome: UsageOutcome
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly modelDigest: Digest
  readonly adapterDigest: Digest
  readonly adapterOwner: Address | null
  readonly attributionDigest: Digest
  readonly contributors: readonly { readonly payee: Address; readonly weightPpm: number }[]
  readonly promptHash: Digest
  readonly outputHash: Digest
}

export type SettleResult =
  | { readonly outcome: 'settled'; readonly feeMicroUsd: number }
  /** A second delivery, or the sweep was first; nothing changed. */
  | { readonly outcome: 'already_settled'; readonly feeMicroUsd: number }
  /** No such reservation was ever admitted. */
  | { readonly outcome: 'unknown_request' }
