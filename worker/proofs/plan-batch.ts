import { keccak256 } from 'viem'
import {
  type BatchEntry,
  encodeEntries,
  joinPayload,
  payloadSizeBytes,
} from '../../protocol/batch-payload.ts'
import type { Digest } from '../../protocol/digest.ts'
import { buildMerkleTree } from '../../protocol/merkle-tree.ts'
import { hashUsageLeaf } from '../../protocol/usage-leaf.ts'
import type { UsageRecord } from '../ledger/usage-record.ts'
import { createUsageLeaf } from './create-usage-leaf.ts'

export interface BatchLimits {
  /** A batch is cut when its oldest record is this old. */
  readonly maxAgeMs: number
  /** A batch is cut before its payload exceeds this; one leaf alone may. */
  readonly maxBytes: number
}

export interface PlannedLeaf {
  readonly requestId: string
  readonly hash: Digest
}

/** A batch as it is to be written down. */
export interface PlannedBatch {
  readonly leaves: readonly PlannedLeaf[]
  readonly root: Digest
  readonly payloadHash: Digest
  readonly payloadBytes: number
}

export type BatchPlan =
  | { readonly outcome: 'cut'; readonly batch: PlannedBatch }
  /** Neither full nor old enough. */
  | { readonly outcome: 'wait' }

/**
 * Decides which of the records that are in no batch yet make the next one: by age of completion,
 * then by request id, as many as fit. `areAll` says whether `records` are all there are; if they
 * are not, a batch that takes all of them is full too.
 */
export function planBatch(
  records: readonly UsageRecord[],
  limits: BatchLimits,
  { nowMs, areAll }: { readonly nowMs: number; readonly areAll: boolean },
): BatchPlan {
  const ordered = records.toSorted(compareRecords)
  const [oldest] = ordered
  if (oldest === undefined) return { outcome: 'wait' }
  const entries: BatchEntry[] = []
  const chunks: Uint8Array[] = []
  let entriesSizeBytes = 0
  for (const chunk of encodeEntries(createEntries(ordered, entries))) {
    entriesSizeBytes += chunk.length
    if (chunks.length > 0 && payloadSizeBytes(entriesSizeBytes) > limits.maxBytes) break
    chunks.push(chunk)
  }
  const isFull = chunks.length < ordered.length || !areAll
  if (!isFull && nowMs - oldest.completedAtMs < limits.maxAgeMs) return { outcome: 'wait' }
  const taken = entries.slice(0, chunks.length)
  const payload = joinPayload(chunks)
  const leaves = taken.map(({ leaf }) => ({
    requestId: leaf.requestId,
    hash: hashUsageLeaf(leaf),
  }))
  return {
    outcome: 'cut',
    batch: {
      leaves,
      root: buildMerkleTree(leaves.map(({ hash }) => hash)).root,
      payloadHash: keccak256(payload),
      payloadBytes: payload.length,
    },
  }
}

/** A record as it stands in the batch payload. */
export function createBatchEntry(record: UsageRecord): BatchEntry {
  return { leaf: createUsageLeaf(record), credits: record.credits, merge: record.merge }
}

/** One by one, and kept in `made`: what does not fit need not be hashed. */
function* createEntries(records: readonly UsageRecord[], made: BatchEntry[]) {
  for (const record of records) {
    const entry = createBatchEntry(record)
    made.push(entry)
    yield entry
  }
}

function compareRecords(a: UsageRecord, b: UsageRecord): number {
  return a.completedAtMs - b.completedAtMs || (a.requestId < b.requestId ? -1 : 1)
}
