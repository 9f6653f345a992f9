import { z } from 'zod'
import { type Digest, ZERO_DIGEST } from '../../protocol/digest.ts'
import { ApiError } from '../errors.ts'
import { monthSchema } from '../ledger/month.ts'
import { composeStatementCsv, type SettledMonth, sumLines } from '../ledger/statement.ts'
import { listClosedMonths, readStatement, type Statement } from '../ledger/statement-store.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { jsonAnswer } from './operation.ts'
import { parseRequest } from './parse-request.ts'
import { acceptsCsv, respondCsv } from './respond-csv.ts'

const totalsShape = {
  request_count: z.int(),
  prompt_tokens: z.int(),
  cached_tokens: z.int(),
  completion_tokens: z.int(),
  fee_micro_usd: z.int(),
}

const summaryShape = {
  object: z.literal('statement'),
  month: z.string().describe('`yyyy-mm`, UTC, by when requests were settled.'),
  state: z.enum(['open', 'closed']).describe('A closed one never changes.'),
  request_count: z.int(),
  fee_micro_usd: z.int(),
  credited_micro_usd: z.int().describe('Of the fees, what credits have paid.'),
  digest: z.string().nullable().describe('SHA-256 of the CSV; null while it is open.'),
  closed_at_ms: z.int().nullable(),
}

export const statementListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(z.strictObject(summaryShape)) })
  .meta({ id: 'StatementList' })

const statementSchema = z
  .strictObject({
    ...summaryShape,
    account_id: z.string(),
    ...totalsShape,
    missing_request_count: z.int().describe('Settled, and not in the ledger yet.'),
    lines: z.array(
      z.strictObject({
        key_id: z.string(),
        model: z.string(),
        adapter_digest: z.string().nullable(),
        price_version: z.int(),
        ...totalsShape,
      }),
    ),
  })
  .meta({ id: 'Statement', description: 'What a UTC month adds up to.' })

export const STATEMENT_ANSWER = {
  ...jsonAnswer(statementSchema, 'Its lines by key, model, adapter and price version.'),
  content: {
    'application/json': statementSchema,
    'text/csv': 'The lines for `accept: text/csv`, the state in `x-statement-state`.',
  },
}

/** Months that one list looks at to close them; the others it shows as they are. */
const MAX_CLOSED_AT_ONCE = 12

/** `GET /v1/statements`: the months in which the account has used something, the newest first. */
export async function listStatements(c: AppContext): Promise<Response> {
  return list(c, (await describeCaller(c, 'usage:read')).accountId)
}

const monthParamSchema = z.object({ month: monthSchema })

/** `GET /v1/statements/{yyyy-mm}`: what a UTC month adds up to, as JSON or CSV. */
export async function getStatement(c: AppContext): Promise<Response> {
  return show(c, (await describeCaller(c, 'usage:read')).accountId)
}

/** `GET /admin/v1/accounts/{id}/statements`. */
export async function listAccountStatements(c: AppContext): Promise<Response> {
  return list(c, (await requireAccount(c)).accountId)
}

/** `GET /admin/v1/accounts/{id}/statements/{yyyy-mm}`. */
export async function getAccountStatement(c: AppContext): Promise<Response> {
  return show(c, (await requireAccount(c)).accountId)
}

async function list(c: AppContext, accountId: string): Promise<Response> {
  const { services } = c.var
  const settledMonths = await services.account(accountId).listMonths()
  const closedMonths = await listClosedMonths(services.database, accountId)
  const data: z.input<typeof statementListSchema>['data'] = []
  let closingCount = 0
  for (const settled of settledMonths) {
    let closed = closedMonths.find(({ month }) => month === settled.month) ?? null
    if (closed === null && closingCount++ < MAX_CLOSED_AT_ONCE)
      closed = (await findStatement(c, accountId, settled.month))?.closed ?? null
    data.push(composeSummary(settled, closed))
  }
  return c.json({ object: 'list', data })
}

async function show(c: AppContext, accountId: string): Promise<Response> {
  const { month } = parseRequest(monthParamSchema, { month: c.req.param('month') })
  const found = await findStatement(c, accountId, month)
  if (found === null)
    throw new ApiError('not_found', { message: `The account has no statement of ${month}.` })
  const { closed, lines, missingCount, settled } = found
  if (acceptsCsv(c)) {
    c.var.answerHeaders.set('x-statement-state', closed === null ? 'open' : 'closed')
    return respondCsv(c, composeStatementCsv(found))
  }
  const totals = sumLines(lines)
  const body: z.input<typeof statementSchema> = {
    ...composeSummary(settled, closed),
    account_id: accountId,
    ...composeTotals(totals),
    missing_request_count: missingCount,
    lines: lines.map((line) => ({
      key_id: line.keyId,
      model: line.model,
      adapter_digest: line.adapterDigest === ZERO_DIGEST ? null : line.adapterDigest,
      price_version: line.priceVersion,
      ...composeTotals(line),
    })),
  }
  return c.json(body)
}

/** Null where there is none: before the account was created, or after now. */
async function findStatement(
  c: AppContext,
  accountId: string,
  month: string,
): Promise<(Statement & { readonly settled: SettledMonth }) | null> {
  const { account, database } = c.var.services
  await account(accountId).flushLedger() // what D1 does not take is counted as missing
  const reading = await account(accountId).readMonth(month)
  if (reading.outcome === 'none') return null
  const statement = await readStatement(database, accountId, { reading, nowMs: Date.now() })
  return { ...statement, settled: reading.settled }
}

function composeTotals(totals: ReturnType<typeof sumLines>) {
  return {
    request_count: totals.requestCount,
    prompt_tokens: totals.promptTokens,
    cached_tokens: totals.cachedTokens,
    completion_tokens: totals.completionTokens,
    fee_micro_usd: totals.feeMicroUsd,
  }
}

/** A month's sums as they were settled. */
function composeSummary(
  settled: SettledMonth,
  closed: { readonly digest: Digest; readonly closedAtMs: number } | null,
): z.input<typeof statementListSchema>['data'][number] {
  return {
    object: 'statement',
    month: settled.month,
    state: closed === null ? 'open' : 'closed',
    request_count: settled.requestCount,
    fee_micro_usd: settled.feeMicroUsd,
    credited_micro_usd: settled.creditedMicroUsd,
    digest: closed?.digest ?? null,
    closed_at_ms: closed?.closedAtMs ?? null,
  }
}
