import { commitContent, hashCredits, type UsageLeaf } from '../../protocol/usage-leaf.ts'
import type { UsageRecord } from '../ledger/usage-record.ts'

/** Whether a record becomes a leaf: requests that ended before their first token do not. */
export function isAnchorable(record: UsageRecord): boolean {
  return record.promptTokens + record.completionTokens > 0
}

/** The leaf that commits to a record. */
export function createUsageLeaf(record: UsageRecord): UsageLeaf {
  return {
    version: record.merge === null ? 1 : 2,
    requestId: record.requestId,
    accountCommitment: record.accountCommitment,
    completedAtMs: record.completedAtMs,
    modelDigest: record.modelDigest,
    adapterDigest: record.adapterDigest,
    promptTokens: record.promptTokens,
    cachedTokens: record.cachedTokens,
    completionTokens: record.completionTokens,
    feeMicroUsd: record.feeMicroUsd,
    priceVersion: record.priceVersion,
    splitVersion: record.splitVersion,
    attributionDigest: record.attributionDigest,
    creditsHash: hashCredits(record.credits),
    contentCommitment: commitContent({
      salt: record.contentSalt,
      promptHash: record.promptHash,
      outputHash: record.outputHash,
      sketchHash: record.sketchHash,
    }),
  }
}
