import {
  and,
  asc,
  type Column,
  desc,
  eq,
  getTableColumns,
  getTableName,
  gte,
  lt,
  or,
  type SQL,
  sql,
  type Table,
} from 'drizzle-orm'
import { type DrizzleD1Database, drizzle } from 'drizzle-orm/d1'
import { z } from 'zod'
import { apiKeys, usage } from './schema.ts'
import type { UsageRecord } from './usage-record.ts'

/** A row of `usage`: the record, and where it is anchored. */
export type UsageRow = typeof usage.$inferSelect

/** … and whose key was used; null: the account's own. */
export type UsageLine = UsageRow & { readonly memberId: string | null }

/** What an account object sends to D1. */
export type LedgerEntry =
  | { readonly kind: 'usage'; readonly record: UsageRecord }
  | { readonly kind: 'key'; readonly key: typeof apiKeys.$inferSelect }

/** So that a statement's one parameter stays far below the 2 MB that D1 binds. */
const ENTRIES_PER_STATEMENT = 50

const INSERT_RECORDS = `${composeInsert(usage, omitBatch(getTableColumns(usage)))} ON CONFLICT DO NOTHING`
const INSERT_KEYS = `${composeInsert(apiKeys, getTableColumns(apiKeys))} ON CONFLICT (id)
  DO UPDATE SET name = excluded.name,
    revoked_at_ms = coalesce(api_keys.revoked_at_ms, excluded.revoked_at_ms)`

/**
 * Writes entries in one transaction. Safe to repeat in any part: a record that is there stays as it
 * is, and a key's revocation is never undone; its name is that of the last entry. Throws when D1 fails. SQL
 * that is made once and rows as JSON: building a query of so many values costs more than running it.
 */
export async function writeLedger(
  database: D1Database,
  entries: readonly LedgerEntry[],
): Promise<void> {
  const records = entries.flatMap((entry) => (entry.kind === 'usage' ? [entry.record] : []))
  const keys = entries.flatMap((entry) => (entry.kind === 'key' ? [entry.key] : []))
  const statements = [
    ...composeStatements(database, INSERT_RECORDS, records),
    ...composeStatements(database, INSERT_KEYS, keys),
  ]
  if (statements.length > 0) await database.batch(statements)
}

function composeStatements(
  database: D1Database,
  insert: string,
  rows: readonly object[],
): D1PreparedStatement[] {
  return Array.from({ length: Math.ceil(rows.length / ENTRIES_PER_STATEMENT) }, (_, index) => {
    const start = index * ENTRIES_PER_STATEMENT
    const some = rows.slice(start, start + ENTRIES_PER_STATEMENT)
    return database.prepare(insert).bind(JSON.stringify(some))
  })
}

/** Of rows in a JSON array, their fields named as the schema names them. */
function composeInsert(table: Table, columns: Readonly<Record<string, Column>>): string {
  const names = Object.values(columns).map(({ name }) => name)
  const values = Object.keys(columns).map((field) => `value ->> '${field}'`)
  return `INSERT INTO ${getTableName(table)} (${names.join(', ')})
    SELECT ${values.join(', ')} FROM json_each(?) WHERE true`
}

/** Where a record is anchored is decided later. */
function omitBatch({
  batchId: _batchId,
  leafIndex: _leafIndex,
  leafHash: _leafHash,
  ...columns
}: ReturnType<typeof getTableColumns<typeof usage>>) {
  return columns
}

/** `<completedAtMs>.<requestId>` of the last record of a page. */
export const usageCursorSchema = z
  .string()
  .regex(/^\d{1,16}\.req_[0-9a-zA-Z]{1,59}$/, 'must be the next_cursor of an earlier page')

export interface UsageListQuery {
  readonly accountId: string
  /** Inclusive. */
  readonly fromMs: number
  /** Exclusive. */
  readonly toMs: number
  /** As `usageCursorSchema` accepts it; null: from the newest record. */
  readonly cursor: string | null
  /** Records a page. */
  readonly limit: number
}

export interface UsageQuery extends UsageListQuery {
  /** What the sums are by; null: one sum of all. Days are UTC. */
  readonly group: 'key' | 'member' | 'model' | 'day' | null
}

interface UsageSum {
  /** Key id, member id, model or `YYYY-MM-DD`; null when nothing groups, and for no member. */
  readonly group: string | null
  readonly requestCount: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly feeMicroUsd: number
}

export interface UsageList {
  /** Newest first. */
  readonly records: readonly UsageLine[]
  /** Null on the last page. */
  readonly nextCursor: string | null
}

export interface UsagePage extends UsageList {
  /** Of the whole period, not of the page; ordered by group, at most 1,000. */
  readonly sums: readonly UsageSum[]
}

const MAX_GROUPS = 1_000

/** One page of an account's records in a period. Costs what the page costs, however long the period. */
export async function listUsage(database: D1Database, query: UsageListQuery): Promise<UsageList> {
  return composeList(await selectRecords(drizzle(database), query), query)
}

/** The same, and the period's sums. */
export async function findUsage(database: D1Database, query: UsageQuery): Promise<UsagePage> {
  const db = drizzle(database)
  const group = groupColumn(query.group)
  const [rows, sums] = await db.batch([
    selectRecords(db, query),
    db
      .select({
        group,
        requestCount: sql<number>`count(*)`,
        promptTokens: sql<number>`coalesce(sum(${usage.promptTokens}), 0)`,
        cachedTokens: sql<number>`coalesce(sum(${usage.cachedTokens}), 0)`,
        completionTokens: sql<number>`coalesce(sum(${usage.completionTokens}), 0)`,
        feeMicroUsd: sql<number>`coalesce(sum(${usage.feeMicroUsd}), 0)`,
      })
      .from(usage)
      .where(isInPeriod(query))
      .groupBy(group)
      .orderBy(asc(group))
      .limit(MAX_GROUPS),
  ])
  return { ...composeList(rows, query), sums }
}

/** By the key's mirror, which is written before the key's first record. */
const MEMBER_ID = sql<string | null>`(
  SELECT ${apiKeys.memberId} FROM ${apiKeys} WHERE ${apiKeys.id} = ${usage.keyId})`

/** One more than the page holds, which tells whether there is another. */
function selectRecords(db: DrizzleD1Database, query: UsageListQuery) {
  return db
    .select({ ...getTableColumns(usage), memberId: MEMBER_ID })
    .from(usage)
    .where(and(isInPeriod(query), query.cursor === null ? undefined : isBefore(query.cursor)))
    .orderBy(desc(usage.completedAtMs), desc(usage.requestId))
    .limit(query.limit + 1)
}

function composeList(rows: readonly UsageLine[], { limit }: UsageListQuery): UsageList {
  const records = rows.slice(0, limit)
  const last = records.at(-1)
  const isLastPage = rows.length <= limit || last === undefined
  return { records, nextCursor: isLastPage ? null : `${last.completedAtMs}.${last.requestId}` }
}

function isInPeriod({ accountId, fromMs, toMs }: UsageListQuery): SQL | undefined {
  return and(
    eq(usage.accountId, accountId),
    gte(usage.completedAtMs, fromMs),
    lt(usage.completedAtMs, toMs),
  )
}

/** An account's record of one request; null until it is flushed, and for other accounts' requests. */
export async function findUsageByRequestId(
  database: D1Database,
  accountId: string,
  requestId: string,
): Promise<UsageRow | null> {
  const row = await drizzle(database)
    .select()
    .from(usage)
    .where(and(eq(usage.requestId, requestId), eq(usage.accountId, accountId)))
    .get()
  return row ?? null
}

function groupColumn(group: UsageQuery['group']): SQL<string | null> {
  switch (group) {
    case 'key':
      return sql`${usage.keyId}`
    case 'member':
      return MEMBER_ID
    case 'model':
      return sql`${usage.model}`
    case 'day':
      return sql`strftime('%Y-%m-%d', ${usage.completedAtMs} / 1000, 'unixepoch')`
    case null:
      return sql`null`
  }
}

function isBefore(cursor: string): SQL | undefined {
  const [completedAtMs, requestId] = cursor.split('.')
  return or(
    lt(usage.completedAtMs, Number(completedAtMs)),
    and(eq(usage.completedAtMs, Number(completedAtMs)), lt(usage.requestId, requestId ?? '')),
  )
}
