import type { D1Database } from '@cloudflare/workers-types'
import { and, asc, desc, eq, gt, inArray, isNull, lt, lte, max, min, sql } from 'drizzle-orm'
import { type DrizzleD1Database, drizzle } from 'drizzle-orm/d1'
import type { Hex } from 'viem'
import type { Address, Digest } from '../../protocol/digest.ts'
import { type BatchState, batches, usage } from '../ledger/schema.ts'
import type { UsageRecord } from '../ledger/usage-record.ts'
import type { PlannedBatch } from './plan-batch.ts'

export type Batch = typeof batches.$inferSelect

/** Where a batch stands on chain. */
export interface AnchorPlace {
  readonly chainId: number
  readonly contract: Address
  readonly txHash: Digest
  readonly blockNumber: number
}

/** A settled request with the batch that holds its leaf, if there is one yet. */
export interface RecordInBatch {
  readonly record: UsageRecord
  readonly batch: Batch | null
  readonly leafIndex: number | null
}

/** States in which a batch is not on chain yet. */
const OPEN_STATES = ['planned', 'archived', 'da_posted', 'submitted'] as const

/**
 * Batches and the records in them, in D1. Every write is guarded by the state that it leaves, so
 * that doing it twice, or from two places, does it once; it says whether it was the one that did.
 */
export class BatchStore {
  readonly #database: D1Database
  readonly #db: DrizzleD1Database

  constructor(database: D1Database) {
    this.#database = database
    this.#db = drizzle(database)
  }

  /** Records with tokens that are in no batch, the oldest first. */
  async listUnanchored(limit: number): Promise<UsageRecord[]> {
    return this.#db
      .select(RECORD_COLUMNS)
      .from(usage)
      .where(and(isNull(usage.batchId), sql`${usage.promptTokens} + ${usage.completionTokens} > 0`))
      .orderBy(asc(usage.completedAtMs), asc(usage.requestId))
      .limit(limit)
  }

  /**
   * Writes the batch down as the next one and puts its records into it, all or nothing: nothing
   * when one of them is in a batch already, or when another planner was faster.
   */
  async insertPlanned(plan: PlannedBatch, nowMs: number): Promise<boolean> {
    const { root, payloadHash, payloadBytes } = plan
    const leaves = JSON.stringify(plan.leaves)
    const [inserted] = await this.#database.batch([
      this.#database
        .prepare(INSERT_BATCH)
        .bind(leaves, plan.leaves.length, root, payloadHash, payloadBytes, nowMs),
      this.#database.prepare(FILL_BATCH).bind(leaves, payloadHash),
    ])
    return (inserted?.meta.changes ?? 0) > 0
  }

  /** Batches that are not on chain yet, in the order in which they must get there. */
  async listOpen(limit: number): Promise<Batch[]> {
    return this.#db
      .select()
      .from(batches)
      .where(inArray(batches.state, [...OPEN_STATES]))
      .orderBy(asc(batches.id))
      .limit(limit)
  }

  /** Confirmed batches in blocks up to this one, the oldest first: they can become final. */
  async listConfirmedUpTo(blockNumber: number, limit: number): Promise<Batch[]> {
    return this.#db
      .select()
      .from(batches)
      .where(and(eq(batches.state, 'confirmed'), lte(batches.blockNumber, blockNumber)))
      .orderBy(asc(batches.id))
      .limit(limit)
  }

  /** The confirmed batches that a reorg would move first. */
  async listNewestConfirmed(limit: number): Promise<Batch[]> {
    return this.#db
      .select()
      .from(batches)
      .where(eq(batches.state, 'confirmed'))
      .orderBy(desc(batches.id))
      .limit(limit)
  }

  /** Block of the batch before this one, which is in no later block; 0 where none is known. */
  async readPreviousBlockNumber(id: number): Promise<number> {
    const [row] = await this.#db
      .select({ blockNumber: batches.blockNumber })
      .from(batches)
      .where(eq(batches.id, id - 1))
    return row?.blockNumber ?? 0
  }

  async markArchived(id: number, nowMs: number): Promise<boolean> {
    return this.#advance(id, ['planned'], { state: 'archived', updatedAtMs: nowMs })
  }

  /** `commitment` null: the payload is in the archive alone. */
  async markPosted(id: number, commitment: Hex | null, nowMs: number): Promise<boolean> {
    return this.#advance(id, ['archived'], {
      state: 'da_posted',
      daKind: commitment === null ? 'none' : 'eigenda',
      daCommitment: commitment,
      updatedAtMs: nowMs,
    })
  }

  /** Also for a transaction that replaces one that was submitted before. */
  async markSubmitted(id: number, txHash: Digest, nowMs: number): Promise<boolean> {
    return this.#advance(id, ['da_posted', 'submitted'], {
      state: 'submitted',
      txHash,
      updatedAtMs: nowMs,
    })
  }

  /** Also for a confirmed batch that a reorg moved to another block. */
  async markConfirmed(id: number, place: AnchorPlace, nowMs: number): Promise<boolean> {
    return this.#advance(id, ['da_posted', 'submitted', 'confirmed'], {
      ...place,
      state: 'confirmed',
      updatedAtMs: nowMs,
    })
  }

  async markFinal(id: number, nowMs: number): Promise<boolean> {
    return this.#advance(id, ['confirmed'], { state: 'final', updatedAtMs: nowMs })
  }

  /** Takes back the batches above this id that were on chain: the chain does not have them any more. */
  async reopenAbove(id: number, nowMs: number): Promise<number> {
    const result = await this.#db
      .update(batches)
      .set({
        state: 'submitted',
        chainId: null,
        contract: null,
        blockNumber: null,
        lastError: 'the anchor is no longer on chain',
        updatedAtMs: nowMs,
      })
      .where(and(gt(batches.id, id), inArray(batches.state, ['confirmed', 'final'])))
    return result.meta.changes
  }

  /** The last batch that is on chain by this book; 0 for none. */
  async readLastAnchoredId(): Promise<number> {
    const [row] = await this.#db
      .select({ id: max(batches.id) })
      .from(batches)
      .where(inArray(batches.state, ['confirmed', 'final']))
    return row?.id ?? 0
  }

  /** Completion time of the oldest record with tokens that is not on chain; null when all are. */
  async readOldestUnanchoredAtMs(): Promise<number | null> {
    const oldest = { completedAtMs: min(usage.completedAtMs) }
    const hasTokens = sql`${usage.promptTokens} + ${usage.completionTokens} > 0`
    const [unplanned, inOpenBatch] = await this.#db.batch([
      this.#db
        .select(oldest)
        .from(usage)
        .where(and(isNull(usage.batchId), hasTokens)),
      this.#db
        .select(oldest)
        .from(batches)
        .innerJoin(usage, eq(usage.batchId, batches.id))
        .where(inArray(batches.state, [...OPEN_STATES])),
    ])
    const times = [unplanned[0]?.completedAtMs, inOpenBatch[0]?.completedAtMs]
    const known = times.filter((time) => time !== null && time !== undefined)
    return known.length === 0 ? null : Math.min(...known)
  }

  /** Keeps the age of the state: how long a transaction has been pending is read from it. */
  async recordError(id: number, error: string): Promise<void> {
    await this.#db.update(batches).set({ lastError: error }).where(eq(batches.id, id))
  }

  /** The records of a batch in the order of its leaves. */
  async listRecords(batchId: number): Promise<UsageRecord[]> {
    return this.#db
      .select(RECORD_COLUMNS)
      .from(usage)
      .where(eq(usage.batchId, batchId))
      .orderBy(asc(usage.leafIndex))
  }

  /** The leaves of a batch, in their order. */
  async listLeafHashes(batchId: number): Promise<Digest[]> {
    const rows = await this.#db
      .select({ leafHash: usage.leafHash })
      .from(usage)
      .where(eq(usage.batchId, batchId))
      .orderBy(asc(usage.leafIndex))
    return rows.flatMap(({ leafHash }) => leafHash ?? [])
  }

  async findRecord(requestId: string): Promise<RecordInBatch | null> {
    const [row] = await this.#db
      .select({ record: RECORD_COLUMNS, batch: batches, leafIndex: usage.leafIndex })
      .from(usage)
      .leftJoin(batches, eq(batches.id, usage.batchId))
      .where(eq(usage.requestId, requestId))
    return row ?? null
  }

  /** The newest first; `beforeId` continues a list. */
  async listBatches(limit: number, beforeId = Number.MAX_SAFE_INTEGER): Promise<Batch[]> {
    return this.#db
      .select()
      .from(batches)
      .where(lt(batches.id, beforeId))
      .orderBy(desc(batches.id))
      .limit(limit)
  }

  /** Writes the columns if the batch is still in one of the states. */
  async #advance(
    id: number,
    from: readonly BatchState[],
    values: Partial<typeof batches.$inferInsert>,
  ): Promise<boolean> {
    const result = await this.#db
      .update(batches)
      .set({ lastError: null, ...values })
      .where(and(eq(batches.id, id), inArray(batches.state, [...from])))
    return result.meta.changes > 0
  }
}

// By hand: a list of leaves is one parameter this way, where D1 takes 100 at most.
const INSERT_BATCH = `
  INSERT INTO batches
    (id, state, leaf_count, root, payload_hash, payload_bytes, planned_at_ms, updated_at_ms)
  SELECT (SELECT coalesce(max(id), 0) + 1 FROM batches), 'planned', ?2, ?3, ?4, ?5, ?6, ?6
  WHERE ?2 = (
    SELECT count(*) FROM json_each(?1) AS planned
    JOIN usage ON usage.request_id = planned.value ->> 'requestId'
    WHERE usage.batch_id IS NULL)`

/** The newest batch is the one just inserted, or its payload is another: then nothing is put into it. */
const FILL_BATCH = `
  UPDATE usage SET
    batch_id = batches.id, leaf_index = planned.key, leaf_hash = planned.value ->> 'hash'
  FROM json_each(?1) AS planned, batches
  WHERE usage.request_id = planned.value ->> 'requestId' AND usage.batch_id IS NULL
    AND batches.id = (SELECT max(id) FROM batches) AND batches.payload_hash = ?2`

const RECORD_COLUMNS = {
  requestId: usage.requestId,
  accountId: usage.accountId,
  keyId: usage.keyId,
  endpoint: usage.endpoint,
  model: usage.model,
  backendId: usage.backendId,
  outcome: usage.outcome,
  admittedAtMs: usage.admittedAtMs,
  completedAtMs: usage.completedAtMs,
  promptTokens: usage.promptTokens,
  cachedTokens: usage.cachedTokens,
  completionTokens: usage.completionTokens,
  feeMicroUsd: usage.feeMicroUsd,
  priceVersion: usage.priceVersion,
  splitVersion: usage.splitVersion,
  modelDigest: usage.modelDigest,
  adapterDigest: usage.adapterDigest,
  attributionDigest: usage.attributionDigest,
  credits: usage.credits,
  accountCommitment: usage.accountCommitment,
  contentSalt: usage.contentSalt,
  promptHash: usage.promptHash,
  outputHash: usage.outputHash,
  sketchHash: usage.sketchHash,
  merge: usage.merge,
} satisfies Record<keyof UsageRecord, unknown>
