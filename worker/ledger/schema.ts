import { index, integer, primaryKey, sqliteTable, text, uniqueIndex } from 'drizzle-orm/sqlite-core'
import type { AdapterMerge } from '../../protocol/adapter-merge.ts'
import type { Address, Digest } from '../../protocol/digest.ts'
import type { Credit } from '../../protocol/usage-leaf.ts'
import type { Endpoint, UsageOutcome } from './usage-record.ts'

const digest = (name: string) => text(name).$type<Digest>().notNull()

/** One row a settled request, written once by the account object's outbox. Lifetime: for ever. */
export const usage = sqliteTable(
  'usage',
  {
    requestId: text('request_id').primaryKey(),
    accountId: text('account_id').notNull(),
    keyId: text('key_id').notNull(),
    endpoint: text('endpoint').$type<Endpoint>().notNull(),
    model: text('model').notNull(),
    backendId: text('backend_id').notNull(),
    outcome: text('outcome').$type<UsageOutcome>().notNull(),
    admittedAtMs: integer('admitted_at_ms').notNull(),
    completedAtMs: integer('completed_at_ms').notNull(),
    promptTokens: integer('prompt_tokens').notNull(),
    cachedTokens: integer('cached_tokens').notNull(),
    completionTokens: integer('completion_tokens').notNull(),
    feeMicroUsd: integer('fee_micro_usd').notNull(),
    priceVersion: integer('price_version').notNull(),
    splitVersion: integer('split_version').notNull(),
    modelDigest: digest('model_digest'),
    adapterDigest: digest('adapter_digest'),
    attributionDigest: digest('attribution_digest'),
    credits: text('credits', { mode: 'json' }).$type<readonly Credit[]>().notNull(),
    accountCommitment: digest('account_commitment'),
    contentSalt: digest('content_salt'),
    promptHash: digest('prompt_hash'),
    outputHash: digest('output_hash'),
    sketchHash: digest('sketch_hash'),
    /** What the adapter was merged of; null: it was not. */
    merge: text('merge', { mode: 'json' }).$type<AdapterMerge>(),
    /** The anchor batch that holds the row's leaf; null until one is planned. */
    batchId: integer('batch_id'),
    /** The leaf's place in the batch's canonical order, from 0. */
    leafIndex: integer('leaf_index'),
    /** Hash of the row's leaf, kept so that a proof needs no other row's content; null outside a batch. */
    leafHash: text('leaf_hash').$type<Digest>(),
  },
  (table) => [
    index('usage_by_account').on(table.accountId, table.completedAtMs, table.requestId),
    index('usage_by_batch').on(table.batchId, table.leafIndex),
  ],
)

/** States of a batch, in order; each is durable before the next begins. */
export type BatchState = 'planned' | 'archived' | 'da_posted' | 'submitted' | 'confirmed' | 'final'

/** One anchor batch. Lifetime: for ever. Ids are strictly sequential from 1, as the contract wants. */
export const batches = sqliteTable(
  'batches',
  {
    id: integer('id').primaryKey(),
    state: text('state').$type<BatchState>().notNull(),
    leafCount: integer('leaf_count').notNull(),
    root: digest('root'),
    payloadHash: digest('payload_hash'),
    payloadBytes: integer('payload_bytes').notNull(),
    plannedAtMs: integer('planned_at_ms').notNull(),
    /** `eigenda`, or `none` where the DA was down and the archive is the only source. Null until posted. */
    daKind: text('da_kind').$type<'eigenda' | 'none'>(),
    /** Hex of the DA's commitment; its length differs from put to put. */
    daCommitment: text('da_commitment').$type<Digest>(),
    /** Where the batch was anchored; null until confirmed. */
    chainId: integer('chain_id'),
    contract: text('contract').$type<Address>(),
    /** Of the last transaction sent, before the batch is confirmed. */
    txHash: text('tx_hash').$type<Digest>(),
    blockNumber: integer('block_number'),
    /** The last failure, for the operator; null after a step went through. */
    lastError: text('last_error'),
    updatedAtMs: integer('updated_at_ms').notNull(),
  },
  (table) => [index('batches_by_state').on(table.state)],
)

/** A published price. Lifetime: for ever; a row is never changed. */
export const prices = sqliteTable(
  'prices',
  {
    /** Counts on from the last that a configuration can have. */
    version: integer('version').primaryKey(),
    /** As callers name it; null: all models. */
    model: text('model'),
    /** Null: all backends. */
    backendId: text('backend_id'),
    promptMicroUsdPerMillion: integer('prompt_micro_usd_per_million').notNull(),
    cachedMicroUsdPerMillion: integer('cached_micro_usd_per_million').notNull(),
    completionMicroUsdPerMillion: integer('completion_micro_usd_per_million').notNull(),
    effectiveAtMs: integer('effective_at_ms').notNull(),
    createdAtMs: integer('created_at_ms').notNull(),
  },
  (table) => [
    index('prices_by_scope').on(table.model, table.backendId, table.effectiveAtMs, table.version),
  ],
)

/** A month of an account that is closed: its sums, and what they are checked by. Lifetime: for ever. */
export const statements = sqliteTable(
  'statements',
  {
    accountId: text('account_id').notNull(),
    /** `YYYY-MM`, UTC. */
    month: text('month').notNull(),
    requestCount: integer('request_count').notNull(),
    feeMicroUsd: integer('fee_micro_usd').notNull(),
    /** Of the fee, what credits have paid. */
    creditedMicroUsd: integer('credited_micro_usd').notNull(),
    /** SHA-256 of the statement as CSV. */
    digest: digest('digest'),
    closedAtMs: integer('closed_at_ms').notNull(),
  },
  (table) => [primaryKey({ columns: [table.accountId, table.month] })],
)

/** A mirror of each API key without its secret, for the dashboard; the account object decides. */
export const apiKeys = sqliteTable(
  'api_keys',
  {
    id: text('id').primaryKey(),
    accountId: text('account_id').notNull(),
    name: text('name').notNull(),
    /** The first characters of the key, to recognise it by. */
    start: text('start').notNull(),
    createdAtMs: integer('created_at_ms').notNull(),
    revokedAtMs: integer('revoked_at_ms'),
    /** The member whose key it is, for ever; null: it is the account's own. */
    memberId: text('member_id'),
  },
  (table) => [uniqueIndex('api_keys_by_account').on(table.accountId, table.id)],
)

/** Who pays an account's usage at Stripe. Lifetime: for ever, so that nothing is reported twice. */
export const stripeCustomers = sqliteTable('stripe_customers', {
  accountId: text('account_id').primaryKey(),
  /** Null: nothing is reported until there is one again. */
  customerId: text('customer_id'),
  /** Rows of `usage` up to this rowid are in meter events. */
  cursorRowid: integer('cursor_rowid').notNull(),
})

/** What some records of an account add up to, to be told to Stripe once. Lifetime: for ever. */
export const meterEvents = sqliteTable(
  'meter_events',
  {
    identifier: text('identifier').primaryKey(),
    accountId: text('account_id').notNull(),
    customerId: text('customer_id').notNull(),
    valueMicroUsd: integer('value_micro_usd').notNull(),
    requestCount: integer('request_count').notNull(),
    /** Of its last record; all are of one UTC month. */
    lastCompletedAtMs: integer('last_completed_at_ms').notNull(),
    plannedAtMs: integer('planned_at_ms').notNull(),
    attemptedAtMs: integer('attempted_at_ms'),
    /** Since when Stripe may have it without our knowing; null: it has not, or it has for sure. */
    unclearSinceMs: integer('unclear_since_ms'),
    /** How often Stripe answered that it failed; it remembers such an answer by the Idempotency-Key. */
    serverErrorCount: integer('server_error_count').notNull(),
    acceptedAtMs: integer('accepted_at_ms'),
    /** Why it was not accepted at the last attempt. */
    lastError: text('last_error'),
  },
  (table) => [
    index('meter_events_pending').on(table.acceptedAtMs, table.attemptedAtMs),
    index('meter_events_by_account').on(table.accountId, table.acceptedAtMs),
  ],
)
