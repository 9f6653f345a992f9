import type { AdapterMerge } from '../../protocol/adapter-merge.ts'
import type { Tier } from '../../protocol/backend.ts'
import type { Address, Digest } from '../../protocol/digest.ts'
import type { SettledMonth } from '../ledger/statement.ts'
import type { Endpoint, UsageOutcome } from '../ledger/usage-record.ts'
import type { AccountSettings, KeyRules, KeyScope, MemberSettings } from './account-settings.ts'
import type { Budget, LimitScope } from './budget.ts'
import type { BudgetWindow, WindowSpending } from './budget-window.ts'
import type { CreditBalance } from './credit.ts'
import type { IdempotencyClaim, KeptAnswer, Recall } from './idempotency.ts'
import type { Price, PriceChange, Tariff } from './pricing.ts'
import type { ModelLimit } from './rate-limits.ts'
import type { CacheClaim } from './response-cache.ts'

/**
 * What crosses the line between a request's isolate and its account's object. One call admits,
 * one call settles; both are idempotent by request id.
 */
export interface AdmitRequest {
  readonly requestId: string
  /** SHA-256 of the whole API key, lower-case hex. */
  readonly keyHash: string
  readonly endpoint: Endpoint
  readonly model: string
  /** Adapters that it merges over the model, as the caller named them; absent: none. */
  readonly adapters?: readonly string[]
  /** Models that may serve it instead; the key must be allowed all of them. */
  readonly otherModels?: readonly string[]
  /** As the caller asked for it; absent: that of its key. */
  readonly tier?: Tier
  /** In force until the first of `priceChanges`. */
  readonly price: Price
  /** In the order of time; the object takes the version that is in force at admission by its own clock. */
  readonly priceChanges?: readonly PriceChange[]
  readonly splitVersion: number
  /** The most this request can cost: reserved now, given back by what it did not use. */
  readonly worstCaseMicroUsd: number
  /** The most tokens it can use, taken from the tokens-a-minute bucket. */
  readonly worstCaseTokenCount: number
  /** Where the sweep asks what became of the request if its owner vanishes. */
  readonly backendId: string
  /** Absent: the request may be repeated as often as it is sent. */
  readonly idempotency?: IdempotencyClaim
  /** Absent: the request is computed, and its answer not kept. */
  readonly cache?: CacheClaim
}

/** Another backend than the one admitted for serves a request; its worst case is reserved already. */
export interface Reroute extends Tariff {
  readonly backendId: string
  /** Absent: the same. */
  readonly model?: string
}

/** Which limit held a request back. */
export interface LimitName {
  readonly scope: LimitScope
  /** Of which model alone; null: of all together. */
  readonly model: string | null
  readonly limit: number
}

/** State of a request's limits after the call, for the `x-ratelimit-*` headers. */
export interface LimitSnapshot {
  readonly requestLimit: number
  readonly requestsRemaining: number
  readonly requestResetMs: number
  readonly tokenLimit: number
  readonly tokensRemaining: number
  readonly tokenResetMs: number
}

/** How sure a refusal is. */
interface Standing {
  /**
   * So long every request of the key that asks for at least as much is refused too, whatever ends
   * meanwhile, unless the operator changes something. 0: one may be let in at any moment.
   */
  readonly standsForMs: number
}

export type AdmitResult =
  | {
      readonly outcome: 'admitted'
      readonly limits: LimitSnapshot
      readonly tier: Tier
      /** How many objects serve the account; absent: one. */
      readonly shards?: number
    }
  /** The answer of an earlier request, under this one's id: recorded, and nothing to settle. */
  | { readonly outcome: 'cached'; readonly limits: LimitSnapshot; readonly answer: KeptAnswer }
  | Exclude<Recall, { outcome: 'new' }>
  | { readonly outcome: 'unknown_key' }
  | { readonly outcome: 'insufficient_scope' }
  /** `model` is the first of the model and its adapters that the key may not use. */
  | { readonly outcome: 'model_not_allowed'; readonly model: string }
  | (LimitName &
      Standing & {
        readonly outcome: 'rate_limited'
        readonly what: 'requests' | 'tokens'
        readonly retryAfterMs: number
        readonly limits: LimitSnapshot
      })
  /** More urgent than the key may be, which is `keyTier`. */
  | { readonly outcome: 'tier_not_allowed'; readonly keyTier: Tier }
  /** `tier` where it is what holds the request back: a more urgent one would be let in. */
  | (LimitName & {
      readonly outcome: 'too_many_at_once'
      readonly tier?: Tier
      /** Of one of several objects: another one may let it in. */
      readonly isShare?: true
    })
  | (Standing & {
      readonly outcome: 'over_budget'
      readonly scope: LimitScope
      readonly window: 'total' | BudgetWindow
      /** When it has room again, as far as that is known; null: waiting does not help. */
      readonly resetsAtMs: number | null
      readonly limitMicroUsd: number
      readonly spentMicroUsd: number
      readonly reservedMicroUsd: number
    })
  /** The account pays in advance, and what is left of its credits does not cover the request. */
  | (Standing & {
      readonly outcome: 'over_balance'
      readonly balanceMicroUsd: number
      readonly reservedMicroUsd: number
    })

/** What an object answers that may be a shard of an account. */
export type ShardAdmitResult =
  | AdmitResult
  /** The account has no such shard any more: its own object is to be asked. */
  | { readonly outcome: 'moved' }

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
  /** What the adapter was merged of; absent or null: it was not. */
  readonly merge?: AdapterMerge | null
  readonly attributionDigest: Digest
  readonly contributors: readonly { readonly payee: Address; readonly weightPpm: number }[]
  readonly promptHash: Digest
  readonly outputHash: Digest
  /** The answer that goes out, for a request with an `Idempotency-Key` or one that may be cached. */
  readonly answer?: KeptAnswer | undefined
}

export type SettleResult =
  | { readonly outcome: 'settled'; readonly feeMicroUsd: number }
  /** A second delivery, or the sweep was first; nothing changed. */
  | { readonly outcome: 'already_settled'; readonly feeMicroUsd: number }
  /** No such reservation was ever admitted. */
  | { readonly outcome: 'unknown_request' }

/** Several objects would serve the account and cannot; nothing changed. */
export interface Unshardable {
  readonly outcome: 'unshardable'
  /** A clause, such as: the account has credits or is prepaid. */
  readonly reason: string
}

/** Several objects serve the account, and its keys and members cannot have such a limit; nothing changed. */
export interface UnshardableLimit {
  readonly outcome: 'unshardable'
  readonly shards: number
  /** As the API spells it. */
  readonly field: string
}

export type ConfigureResult =
  | { readonly outcome: 'configured'; readonly account: AccountDescription }
  | Unshardable

export type CreateKeyResult =
  /** `key` is in this answer and nowhere else. */
  | {
      readonly outcome: 'created'
      readonly keyId: string
      readonly key: string
      readonly start: string
    }
  | { readonly outcome: 'unknown_account' }
  /** There is none of this id, or it was removed. */
  | { readonly outcome: 'unknown_member' }
  | UnshardableLimit

export type ChangeKeyResult =
  | { readonly outcome: 'changed'; readonly key: KeySummary }
  /** There is none of this id, or it was revoked. */
  | { readonly outcome: 'unknown_key' }
  | UnshardableLimit

export type CreateMemberResult =
  | { readonly outcome: 'created'; readonly member: MemberSummary }
  | UnshardableLimit

export type UpdateMemberResult =
  | { readonly outcome: 'updated'; readonly member: MemberSummary }
  /** There is none of this id, or it was removed. */
  | { readonly outcome: 'unknown_member' }
  | UnshardableLimit

export type RotateKeyResult =
  | {
      readonly outcome: 'rotated'
      /** In this answer and nowhere else. */
      readonly key: string
      readonly start: string
      readonly previousValidUntilMs: number
    }
  /** There is none of this id, or it was revoked. */
  | { readonly outcome: 'unknown_key' }

/** A limit of one model and what is left of it. Null: none. */
export interface ModelLimitState extends ModelLimit {
  readonly requestsRemaining: number | null
  readonly tokensRemaining: number | null
}

/** A member as its account sees it. */
export interface MemberSummary {
  readonly memberId: string
  readonly createdAtMs: number
  /** Null: it is one. */
  readonly removedAtMs: number | null
  readonly settings: MemberSettings
  readonly budget: Budget
  readonly windows: readonly WindowSpending[]
  readonly modelLimits: readonly ModelLimitState[]
}

/** A key as its account sees it. */
export interface KeySummary extends KeyRules {
  readonly keyId: string
  /** Null: it is the account's own. */
  readonly memberId: string | null
  readonly name: string
  /** The first characters of the key, to recognise it by. */
  readonly start: string
  readonly createdAtMs: number
  readonly expiresAtMs: number | null
  readonly revokedAtMs: number | null
  /** Null: all. */
  readonly models: readonly string[] | null
  /** Null: all but those that have to be named. */
  readonly scopes: readonly KeyScope[] | null
  /** To the minute; null: never. */
  readonly lastUsedAtMs: number | null
  readonly budget: Budget
  readonly windows: readonly WindowSpending[]
  readonly modelLimits: readonly ModelLimitState[]
}

/** What a caller may know of the key it holds; also how calls that cost nothing are authenticated. */
export type DescribeKeyResult =
  | {
      readonly outcome: 'key'
      readonly accountId: string
      readonly key: KeySummary
      /** Whose key it is; null: the account's own. */
      readonly member: MemberSummary | null
      readonly limits: LimitSnapshot
      readonly accountBudget: Budget
      readonly accountWindows: readonly WindowSpending[]
      readonly accountModelLimits: readonly ModelLimitState[]
      readonly credit: CreditBalance
    }
  /** Unknown, revoked or expired. */
  | { readonly outcome: 'unknown_key' }

/** A month of an account, for its statement. */
export type MonthReading =
  | {
      readonly outcome: 'month'
      readonly settled: SettledMonth
      /** It is over, and nothing more will be settled into it. */
      readonly isSealed: boolean
    }
  /** The account was not there yet, or the month has not begun. */
  | { readonly outcome: 'none' }

/** An account for its operator. */
export interface AccountDescription {
  readonly accountId: string
  readonly createdAtMs: number
  /** Opens the account's commitment in public leaves; for the account itself only. */
  readonly salt: Digest
  readonly settings: AccountSettings
  readonly budget: Budget
  readonly windows: readonly WindowSpending[]
  readonly modelLimits: readonly ModelLimitState[]
  readonly credit: CreditBalance
  readonly openReservationCount: number
  /** Records that D1 has not confirmed yet. */
  readonly outboxCount: number
  /** Why the last flush to D1 or sweep failed; null after a flush that did not, and a restart. */
  readonly lastAlarmError: string | null
  readonly counters: Readonly<Record<AccountCounter, number>>
}

/** What an account counts for its operator, since it was created. */
export type AccountCounter =
  /** Settled by the sweep, by the backend's report. */
  | 'swept'
  /** Given back by the sweep with zero tokens: nobody knew the request. */
  | 'released'
  /** Usage that would have cost more than its reservation, billed at the reservation. */
  | 'clamped'
