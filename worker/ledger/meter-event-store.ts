import { and, asc, eq, gt, isNull, or, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { meterEvents, stripeCustomers } from './schema.ts'

export type MeterEvent = typeof meterEvents.$inferSelect

/** How an account stands with Stripe. Sums are micro-USD. */
export interface StripeAccount {
  readonly customerId: string | null
  readonly acceptedMicroUsd: number
  /** Planned, and not accepted yet. */
  readonly pendingMicroUsd: number
  /** Of what is pending, what is not sent any more: Stripe may have it, and could not tell it apart by now. */
  readonly uncertainMicroUsd: number
  readonly lastError: string | null
}

/**
 * Records of one account and month that are in no event yet become one. `rowid` is the order in which
 * D1 committed them, and no row is ever deleted; the scan begins where the last plan ended.
 */
const PLAN = `
  INSERT INTO meter_events (identifier, account_id, customer_id, value_micro_usd, request_count,
    last_completed_at_ms, planned_at_ms, server_error_count)
  SELECT u.account_id || '-' || max(u.rowid)
           || '-' || strftime('%Y%m', u.completed_at_ms / 1000, 'unixepoch'),
         c.account_id, c.customer_id, sum(u.fee_micro_usd), count(*), max(u.completed_at_ms), ?, 0
  FROM usage AS u NOT INDEXED CROSS JOIN stripe_customers AS c
  WHERE u.rowid > (SELECT min(cursor_rowid) FROM stripe_customers WHERE customer_id IS NOT NULL)
    AND c.account_id = u.account_id AND c.customer_id IS NOT NULL
    AND u.rowid > c.cursor_rowid AND u.fee_micro_usd > 0
  GROUP BY u.account_id, strftime('%Y%m', u.completed_at_ms / 1000, 'unixepoch')`

const ADVANCE = `
  UPDATE stripe_customers SET cursor_rowid = (SELECT max(rowid) FROM usage)
  WHERE customer_id IS NOT NULL AND cursor_rowid < (SELECT max(rowid) FROM usage)`

/** Puts every new record of the accounts that have a customer into an event, in one transaction. */
export async function planMeterEvents(database: D1Database, nowMs: number): Promise<void> {
  await database.batch([database.prepare(PLAN).bind(nowMs), database.prepare(ADVANCE)])
}

/** Events that are to be sent, the longest untried first; none that is unclear since before `uncertainBeforeMs`. */
export async function listDueMeterEvents(
  database: D1Database,
  { limit, uncertainBeforeMs }: { readonly limit: number; readonly uncertainBeforeMs: number },
): Promise<readonly MeterEvent[]> {
  const { acceptedAtMs, unclearSinceMs, attemptedAtMs, plannedAtMs } = meterEvents
  return drizzle(database)
    .select()
    .from(meterEvents)
    .where(
      and(isNull(acceptedAtMs), or(isNull(unclearSinceMs), gt(unclearSinceMs, uncertainBeforeMs))),
    )
    .orderBy(asc(attemptedAtMs), asc(plannedAtMs))
    .limit(limit)
}

/** To be durable before an event is sent. */
export async function noteAttempt(
  database: D1Database,
  identifier: string,
  nowMs: number,
): Promise<void> {
  await drizzle(database)
    .update(meterEvents)
    .set({
      attemptedAtMs: nowMs,
      unclearSinceMs: sql`coalesce(${meterEvents.unclearSinceMs}, ${nowMs})`,
    })
    .where(eq(meterEvents.identifier, identifier))
}

export async function noteAccepted(
  database: D1Database,
  identifier: string,
  nowMs: number,
): Promise<void> {
  await drizzle(database)
    .update(meterEvents)
    .set({ acceptedAtMs: nowMs, unclearSinceMs: null, lastError: null })
    .where(eq(meterEvents.identifier, identifier))
}

/** The attempt of `attemptedAtMs` was surely not taken; what is unclear of an earlier one stays unclear. */
export async function noteRefused(
  database: D1Database,
  identifier: string,
  { attemptedAtMs, why }: { readonly attemptedAtMs: number; readonly why: string },
): Promise<void> {
  const { unclearSinceMs } = meterEvents
  await drizzle(database)
    .update(meterEvents)
    .set({ lastError: why, unclearSinceMs: sql`nullif(${unclearSinceMs}, ${attemptedAtMs})` })
    .where(eq(meterEvents.identifier, identifier))
}

/** Nobody knows whether the attempt was taken. */
export async function noteUnclear(
  database: D1Database,
  identifier: string,
  { isAnswered, why }: { readonly isAnswered: boolean; readonly why: string },
): Promise<void> {
  const { serverErrorCount } = meterEvents
  await drizzle(database)
    .update(meterEvents)
    .set({ lastError: why, serverErrorCount: sql`${serverErrorCount} + ${isAnswered ? 1 : 0}` })
    .where(eq(meterEvents.identifier, identifier))
}

/** Whom the account's usage is reported for from now on, what was not reported before included. */
export async function setStripeCustomer(
  database: D1Database,
  accountId: string,
  customerId: string | null,
): Promise<void> {
  await drizzle(database)
    .insert(stripeCustomers)
    .values({ accountId, customerId, cursorRowid: 0 })
    .onConflictDoUpdate({ target: stripeCustomers.accountId, set: { customerId } })
}

export async function readStripeAccount(
  database: D1Database,
  accountId: string,
  uncertainBeforeMs: number,
): Promise<StripeAccount> {
  const { valueMicroUsd, acceptedAtMs, unclearSinceMs } = meterEvents
  const sumWhere = (condition: ReturnType<typeof sql>) =>
    sql<number>`coalesce(sum(CASE WHEN ${condition} THEN ${valueMicroUsd} END), 0)`
  const db = drizzle(database)
  const [[customer], [sums]] = await db.batch([
    db.select().from(stripeCustomers).where(eq(stripeCustomers.accountId, accountId)),
    db
      .select({
        acceptedMicroUsd: sumWhere(sql`${acceptedAtMs} IS NOT NULL`),
        pendingMicroUsd: sumWhere(sql`${acceptedAtMs} IS NULL`),
        uncertainMicroUsd: sumWhere(
          sql`${acceptedAtMs} IS NULL AND ${unclearSinceMs} <= ${uncertainBeforeMs}`,
        ),
        lastError: sql<string | null>`max(${meterEvents.lastError})`,
      })
      .from(meterEvents)
      .where(eq(meterEvents.accountId, accountId)),
  ])
  if (sums === undefined) throw new Error('Sums of no rows are a row.')
  return { customerId: customer?.customerId ?? null, ...sums }
}
