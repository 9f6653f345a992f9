import type { Digest } from '../../protocol/digest.ts'
import type { AccountCounter, AdmitResult } from './account-contract.ts'
import type { AccountLimits, AccountRules, KeyRules, KeyScope } from './account-settings.ts'
import type { LeaseReport } from './lease.ts'

/**
 * What crosses the line between an account's object and its shards (docs/metering.md). A shard is an
 * object of the same class, by the name `<account>.<index>`, from 1 on; index 0 is the account's object.
 */
export interface LeaseRequest {
  readonly shard: number
  readonly keyHash: string
  /** Absent: the shard does not know yet which key it is; it is told, and leased nothing. */
  readonly lease?: LeaseReport
  readonly neededMicroUsd: number
}

/** What a shard has to know to admit by a key. */
export interface ShardTerms {
  readonly accountId: string
  readonly salt: Digest
  readonly createdAtMs: number
  readonly limits: AccountLimits
  readonly rules: AccountRules
  readonly keyRules: KeyRules
  /** Null: all but those that have to be named. */
  readonly scopes: readonly KeyScope[] | null
  /** Null: all. */
  readonly models: readonly string[] | null
}

export type LeaseAnswer =
  | {
      readonly outcome: 'leased'
      /** All that was ever leased to this shard for the key. */
      readonly leasedMicroUsd: number
      /** From when the shard has asked; nothing is admitted by the lease afterwards. */
      readonly validForMs: number
      readonly terms: ShardTerms
    }
  | { readonly outcome: 'key'; readonly keyId: string }
  /** The request that needs it does not fit. */
  | {
      readonly outcome: 'refused'
      readonly leasedMicroUsd: number
      readonly refusal: Extract<AdmitResult, { outcome: 'over_budget' }>
    }
  /** A newer message was heard. */
  | { readonly outcome: 'stale' }
  | { readonly outcome: 'unknown_key' }
  /** The account has no such shard any more. */
  | { readonly outcome: 'moved' }

/** What was ever leased to a shard for a key. */
export interface LeasedTotal {
  readonly keyId: string
  readonly leasedMicroUsd: number
}

/** A shard as it stands; what it says of leases is durable. */
export interface ShardState {
  readonly leases: readonly LeaseReport[]
  readonly openReservationCount: number
  readonly outboxCount: number
  readonly counters: Readonly<Record<AccountCounter, number>>
}
