import { and, asc, desc, eq, gte, lt, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { endOfMonth, startOfMonth } from './month.ts'
import { statements, usage } from './schema.ts'
import {
  digestStatement,
  type SettledMonth,
  type StatementContent,
  type StatementLine,
  sumLines,
} from './statement.ts'

/** A month that does not change any more. */
export type ClosedMonth = Omit<typeof statements.$inferSelect, 'accountId'>

/** A month of an account. */
export interface Statement extends StatementContent {
  /** Null while the month is open: it runs, or records of it are on their way here. */
  readonly closed: ClosedMonth | null
  /** Records that are settled and not here yet. */
  readonly missingCount: number
}

interface MonthReading {
  readonly settled: SettledMonth
  /** The account's object will put no more into the month. */
  readonly isSealed: boolean
}

/**
 * The statement of a month as D1 has it. Once the month is sealed and its records add up to what the
 * account's object has settled, it is closed: its sums are written down, once. Throws when a
 * closed month does not add up any more.
 */
export async function readStatement(
  database: D1Database,
  accountId: string,
  { reading, nowMs }: { readonly reading: MonthReading; readonly nowMs: number },
): Promise<Statement> {
  const { settled, isSealed } = reading
  const { month } = settled
  const [lines, [closed]] = await readMonth(database, accountId, month)
  const content = { accountId, month, lines }
  const { requestCount, feeMicroUsd } = sumLines(lines)
  const missingCount = settled.requestCount - requestCount
  if (closed !== undefined) {
    if (closed.digest !== (await digestStatement(content)))
      throw new Error(`The records of ${accountId} in ${month} are not those that were closed.`)
    return { ...content, closed, missingCount }
  }
  if (!isSealed || missingCount !== 0 || feeMicroUsd !== settled.feeMicroUsd)
    return { ...content, closed: null, missingCount }
  const digest = await digestStatement(content)
  const row = { ...settled, digest, closedAtMs: nowMs }
  const db = drizzle(database)
  await db
    .insert(statements)
    .values({ ...row, accountId })
    .onConflictDoNothing()
  return { ...content, closed: row, missingCount }
}

/** The months of an account that are closed, the newest first. */
export async function listClosedMonths(
  database: D1Database,
  accountId: string,
): Promise<readonly ClosedMonth[]> {
  return drizzle(database)
    .select(CLOSED_COLUMNS)
    .from(statements)
    .where(eq(statements.accountId, accountId))
    .orderBy(desc(statements.month))
}

const CLOSED_COLUMNS = {
  month: statements.month,
  requestCount: statements.requestCount,
  feeMicroUsd: statements.feeMicroUsd,
  creditedMicroUsd: statements.creditedMicroUsd,
  digest: statements.digest,
  closedAtMs: statements.closedAtMs,
}

/** Lines and closed sums at one moment. */
async function readMonth(
  database: D1Database,
  accountId: string,
  month: string,
): Promise<[readonly StatementLine[], readonly ClosedMonth[]]> {
  const db = drizzle(database)
  const scope = [usage.keyId, usage.model, usage.adapterDigest, usage.priceVersion]
  return db.batch([
    db
      .select({
        keyId: usage.keyId,
        model: usage.model,
        adapterDigest: usage.adapterDigest,
        priceVersion: usage.priceVersion,
        requestCount: sql<number>`count(*)`,
        promptTokens: sql<number>`sum(${usage.promptTokens})`,
        cachedTokens: sql<number>`sum(${usage.cachedTokens})`,
        completionTokens: sql<number>`sum(${usage.completionTokens})`,
        feeMicroUsd: sql<number>`sum(${usage.feeMicroUsd})`,
      })
      .from(usage)
      .where(
        and(
          eq(usage.accountId, accountId),
          gte(usage.completedAtMs, startOfMonth(month)),
          lt(usage.completedAtMs, endOfMonth(month)),
        ),
      )
      .groupBy(...scope)
      .orderBy(...scope.map((column) => asc(column))),
    db
      .select(CLOSED_COLUMNS)
      .from(statements)
      .where(and(eq(statements.accountId, accountId), eq(statements.month, month))),
  ])
}
