import type { Digest } from '../../protocol/digest.ts'
import { buildMerkleTree, proveLeaf } from '../../protocol/merkle-tree.ts'
import type { Receipt } from '../../protocol/receipt.ts'
import { hashUsageLeaf } from '../../protocol/usage-leaf.ts'
import type { UsageRecord } from '../ledger/usage-record.ts'
import type { Batch } from './batch-store.ts'
import { createUsageLeaf } from './create-usage-leaf.ts'

export interface ReceiptParts {
  /** A record with tokens (`isAnchorable`). */
  readonly record: UsageRecord
  /** The salt of the record's account, from its object. */
  readonly accountSalt: Digest
  /** The batch that holds the record, with all its leaves in order; null: in none yet. */
  readonly batch: { readonly row: Batch; readonly leafHashes: readonly Digest[] } | null
}

/** The receipt as things stand: pending until the batch is confirmed on chain. */
export function buildReceipt({ record, accountSalt, batch }: ReceiptParts): Receipt {
  const leaf = createUsageLeaf(record)
  const common = {
    version: 1 as const,
    leaf,
    ...(record.merge && { merge: record.merge }),
    credits: [...record.credits],
    content: {
      salt: record.contentSalt,
      promptHash: record.promptHash,
      outputHash: record.outputHash,
      sketchHash: record.sketchHash,
    },
    account: { id: record.accountId, salt: accountSalt },
  }
  if (batch === null || !isOnChain(batch.row)) return { state: 'pending', ...common }
  const { row, leafHashes } = batch
  const leafIndex = leafHashes.indexOf(hashUsageLeaf(leaf))
  const tree = buildMerkleTree(leafHashes)
  return {
    state: row.state === 'final' ? 'final' : 'anchored',
    ...common,
    batch: {
      id: row.id,
      leafIndex,
      leafCount: row.leafCount,
      root: row.root,
      proof: [...proveLeaf(tree, leafIndex)],
      payloadHash: row.payloadHash,
    },
    da:
      row.daCommitment === null
        ? { kind: 'none' }
        : { kind: 'eigenda', commitment: row.daCommitment },
    anchor: {
      chainId: row.chainId,
      contract: row.contract,
      txHash: row.txHash,
      blockNumber: row.blockNumber,
    },
  }
}

type BatchOnChain = Batch & {
  readonly [Column in 'chainId' | 'contract' | 'txHash' | 'blockNumber']: NonNullable<Batch[Column]>
}

function isOnChain(batch: Batch): batch is BatchOnChain {
  return (
    (batch.state === 'confirmed' || batch.state === 'final') &&
    batch.chainId !== null &&
    batch.contract !== null &&
    batch.txHash !== null &&
    batch.blockNumber !== null
  )
}
