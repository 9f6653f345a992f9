import { z } from 'zod'
import { type Batch, BatchStore } from '../proofs/batch-store.ts'
import type { AppContext } from './app-context.ts'
import { parseRequest } from './parse-request.ts'

/** `POST /admin/v1/anchor`: one anchor cycle now; says what it did, or why not. */
export async function runAnchorCycle(c: AppContext): Promise<Response> {
  return c.json(await c.var.services.anchor().runCycle())
}

const batchesQuerySchema = z.object({
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
  before_id: z.coerce.number().int().min(1).optional(),
})

/** `GET /admin/v1/batches`: the newest first. */
export async function listBatches(c: AppContext): Promise<Response> {
  const query = parseRequest(batchesQuerySchema, c.req.query())
  const batches = await new BatchStore(c.var.services.database).listBatches(
    query.limit,
    query.before_id,
  )
  return c.json({ object: 'list', data: batches.map(composeBatchBody) })
}

function composeBatchBody(batch: Batch) {
  return {
    id: batch.id,
    object: 'batch',
    state: batch.state,
    leaf_count: batch.leafCount,
    root: batch.root,
    payload_hash: batch.payloadHash,
    payload_bytes: batch.payloadBytes,
    planned_at_ms: batch.plannedAtMs,
    updated_at_ms: batch.updatedAtMs,
    da_kind: batch.daKind,
    da_commitment: batch.daCommitment,
    chain_id: batch.chainId,
    contract: batch.contract,
    tx_hash: batch.txHash,
    block_number: batch.blockNumber,
    last_error: batch.lastError,
  }
}
