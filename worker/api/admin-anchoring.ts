import { z } from 'zod'
import { type Batch, BatchStore } from '../proofs/batch-store.ts'
import type { AppContext } from './app-context.ts'
import { parseRequest } from './parse-request.ts'

export const anchorReportSchema = z
  .discriminatedUnion('outcome', [
    z.strictObject({
      outcome: z.literal('ran'),
      steps: z.array(z.strictObject({ action: z.string(), note: z.string() })),
      failures: z.array(z.strictObject({ action: z.string(), error: z.string() })),
      oldestUnanchoredAtMs: z.int().nullable(),
    }),
    z.strictObject({ outcome: z.literal('busy') }),
    z.strictObject({ outcome: z.literal('not_configured'), missing: z.array(z.string()) }),
  ])
  .meta({ id: 'AnchorReport', description: 'What a cycle did, or why there was none.' })

/** `POST /admin/v1/anchor`: one anchor cycle now; says what it did, or why not. */
export async function runAnchorCycle(c: AppContext): Promise<Response> {
  return c.json(await c.var.services.anchor().runCycle())
}

export const batchesQuerySchema = z.object({
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
  before_id: z.coerce.number().int().min(1).optional(),
})

const batchSchema = z
  .strictObject({
    id: z.int(),
    object: z.literal('batch'),
    state: z.enum(['planned', 'archived', 'da_posted', 'submitted', 'confirmed', 'final']),
    leaf_count: z.int(),
    root: z.string(),
    payload_hash: z.string(),
    payload_bytes: z.int(),
    planned_at_ms: z.int(),
    updated_at_ms: z.int(),
    da_kind: z.enum(['eigenda', 'none']).nullable(),
    da_commitment: z.string().nullable(),
    chain_id: z.int().nullable(),
    contract: z.string().nullable(),
    tx_hash: z.string().nullable(),
    block_number: z.int().nullable(),
    last_error: z.string().nullable(),
  })
  .meta({ id: 'Batch', description: 'An anchor batch and how far it is.' })

export const batchListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(batchSchema) })
  .meta({ id: 'BatchList' })

/** `GET /admin/v1/batches`: the newest first. */
export async function listBatches(c: AppContext): Promise<Response> {
  const query = parseRequest(batchesQuerySchema, c.req.query())
  const batches = await new BatchStore(c.var.services.database).listBatches(
    query.limit,
    query.before_id,
  )
  return c.json({ object: 'list', data: batches.map(composeBatchBody) })
}

function composeBatchBody(batch: Batch): z.input<typeof batchSchema> {
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
