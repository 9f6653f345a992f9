import { z } from 'zod'
import { composeCsvHeader, composeCsvLines } from '../ledger/csv.ts'
import { findUsage, listUsage, type UsageLine, usageCursorSchema } from '../ledger/usage-store.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { parseRequest } from './parse-request.ts'
import { acceptsCsv, respondCsv } from './respond-csv.ts'

const instantSchema = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER)

export const usageQuerySchema = z.object({
  from_ms: instantSchema.default(0).describe('Inclusive, milliseconds since 1970.'),
  // The default is the end of time, so that what is settled now is in.
  to_ms: instantSchema.default(Number.MAX_SAFE_INTEGER).describe('Exclusive.'),
  group_by: z.enum(['key', 'member', 'model', 'day']).optional(),
  cursor: usageCursorSchema.optional(),
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
})

const countShape = {
  prompt_tokens: z.int(),
  cached_tokens: z.int().describe('Of the prompt, found instead of computed.'),
  completion_tokens: z.int(),
  fee_micro_usd: z.int(),
}

const usageRecordSchema = z
  .strictObject({
    request_id: z.string(),
    key_id: z.string(),
    member_id: z.string().nullable().describe('Whose key it is; null: the account’s own.'),
    endpoint: z.string(),
    model: z.string(),
    outcome: z.enum(['completed', 'client_aborted', 'upstream_failed', 'swept', 'cached']),
    admitted_at_ms: z.int(),
    completed_at_ms: z.int(),
    ...countShape,
    price_version: z.int(),
    batch_id: z.int().nullable().describe('The anchor batch that holds it.'),
  })
  .meta({ id: 'UsageRecord', description: 'One settled request.' })

export const usagePageSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(usageRecordSchema),
    sums: z
      .array(
        z.strictObject({
          group: z.string().nullable().describe('Key id, member id, model or day.'),
          request_count: z.int(),
          ...countShape,
        }),
      )
      .describe('Of the whole period, not of the page.'),
    has_more: z.boolean(),
    next_cursor: z.string().nullable(),
  })
  .meta({ id: 'UsagePage' })

/**
 * `GET /v1/usage`: the account's settled requests, newest first, and the sums of the period. With
 * `accept: text/csv` the page as CSV, its cursor in `x-next-cursor`: only the first page has the header
 * line, so that all pages joined are one file.
 */
export async function getUsage(c: AppContext): Promise<Response> {
  const { accountId } = await describeCaller(c, 'usage:read')
  const query = parseRequest(usageQuerySchema, c.req.query())
  const { account, database } = c.var.services
  await account(accountId).flushLedger() // while D1 takes no writes, what it holds is told
  const period = { accountId, fromMs: query.from_ms, toMs: query.to_ms }
  const pageQuery = { ...period, cursor: query.cursor ?? null, limit: query.limit }
  if (acceptsCsv(c)) {
    const { records, nextCursor } = await listUsage(database, pageQuery)
    if (nextCursor !== null) c.var.answerHeaders.set('x-next-cursor', nextCursor)
    const header = query.cursor === undefined ? composeCsvHeader(CSV_COLUMNS) : ''
    const lines = composeCsvLines(CSV_COLUMNS, records.map(composeUsageBody))
    return respondCsv(c, header + lines)
  }
  const page = await findUsage(database, { ...pageQuery, group: query.group_by ?? null })
  const body: z.input<typeof usagePageSchema> = {
    object: 'list',
    data: page.records.map(composeUsageBody),
    sums: page.sums.map((sum) => ({
      group: sum.group,
      request_count: sum.requestCount,
      prompt_tokens: sum.promptTokens,
      cached_tokens: sum.cachedTokens,
      completion_tokens: sum.completionTokens,
      fee_micro_usd: sum.feeMicroUsd,
    })),
    has_more: page.nextCursor !== null,
    next_cursor: page.nextCursor,
  }
  return c.json(body)
}

function composeUsageBody(row: UsageLine): z.input<typeof usageRecordSchema> {
  return {
    request_id: row.requestId,
    key_id: row.keyId,
    member_id: row.memberId,
    endpoint: row.endpoint,
    model: row.model,
    outcome: row.outcome,
    admitted_at_ms: row.admittedAtMs,
    completed_at_ms: row.completedAtMs,
    prompt_tokens: row.promptTokens,
    cached_tokens: row.cachedTokens,
    completion_tokens: row.completionTokens,
    fee_micro_usd: row.feeMicroUsd,
    price_version: row.priceVersion,
    batch_id: row.batchId,
  }
}

const CSV_COLUMNS = [
  'request_id',
  'key_id',
  'endpoint',
  'model',
  'outcome',
  'admitted_at_ms',
  'completed_at_ms',
  'prompt_tokens',
  'cached_tokens',
  'completion_tokens',
  'fee_micro_usd',
  'price_version',
  'batch_id',
  'member_id',
] as const satisfies readonly (keyof ReturnType<typeof composeUsageBody>)[]
