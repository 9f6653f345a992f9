import type { AdapterMerge } from '../../protocol/adapter-merge.ts'
import type { Digest } from '../../protocol/digest.ts'
import type { Credit } from '../../protocol/usage-leaf.ts'

/** How a request ended. Every admitted request ends in exactly one of these. */
export type UsageOutcome =
  /** The answer went out whole. */
  | 'completed'
  /** The client left; billed for what was produced until then. */
  | 'client_aborted'
  /** The backend failed; billed for the tokens that reached the client, nothing if none did. */
  | 'upstream_failed'
  /** The gateway vanished; the sweep settled it by the backend's report. */
  | 'swept'
  /** Answered from the account's cache: nothing was computed, nothing is billed. */
  | 'cached'

/** The operation that a request was for. */
export type Endpoint =
  | 'chat.completions'
  | 'completions'
  | 'responses'
  | 'embeddings'
  /** Free of charge. */
  | 'tokenize'
  | 'detokenize'

/** One settled request: a row of D1's `usage`, and what a usage leaf is made from. */
export interface UsageRecord {
  readonly requestId: string
  readonly accountId: string
  readonly keyId: string
  readonly endpoint: Endpoint
  /** As the caller named it. */
  readonly model: string
  readonly backendId: string
  readonly outcome: UsageOutcome
  readonly admittedAtMs: number
  readonly completedAtMs: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly feeMicroUsd: number
  readonly priceVersion: number
  readonly splitVersion: number
  readonly modelDigest: Digest
  readonly adapterDigest: Digest
  /** What the adapter was merged of for this request; null: it was not. */
  readonly merge: AdapterMerge | null
  readonly attributionDigest: Digest
  readonly credits: readonly Credit[]
  readonly accountCommitment: Digest
  readonly contentSalt: Digest
  readonly promptHash: Digest
  readonly outputHash: Digest
  readonly sketchHash: Digest
}
