import { type Digest, ZERO_DIGEST } from '../../protocol/digest.ts'
import { toHex } from '../hex.ts'
import { composeCsvHeader, composeCsvLines } from './csv.ts'

/** What requests have used and cost together. */
export interface UsageTotals {
  readonly requestCount: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
  readonly feeMicroUsd: number
}

/** The requests of a month that were served for one key with the same model, adapter and price. */
export interface StatementLine extends UsageTotals {
  readonly keyId: string
  /** As callers named it. */
  readonly model: string
  readonly adapterDigest: Digest
  readonly priceVersion: number
}

/** What an account's object has settled in a month: the measure of the month's statement. */
export interface SettledMonth {
  readonly month: string
  readonly requestCount: number
  readonly feeMicroUsd: number
  /** Of the fee, what credits have paid. */
  readonly creditedMicroUsd: number
}

/** The lines of a statement, in the order of key, model, adapter and price. */
export interface StatementContent {
  readonly accountId: string
  readonly month: string
  readonly lines: readonly StatementLine[]
}

/** The sum of all lines. */
export function sumLines(lines: readonly UsageTotals[]): UsageTotals {
  const total = (field: keyof UsageTotals) => lines.reduce((sum, line) => sum + line[field], 0)
  return {
    requestCount: total('requestCount'),
    promptTokens: total('promptTokens'),
    cachedTokens: total('cachedTokens'),
    completionTokens: total('completionTokens'),
    feeMicroUsd: total('feeMicroUsd'),
  }
}

const CSV_COLUMNS = [
  'account_id',
  'month',
  'key_id',
  'model',
  'adapter_digest',
  'price_version',
  'request_count',
  'prompt_tokens',
  'cached_tokens',
  'completion_tokens',
  'fee_micro_usd',
] as const

/** A statement's lines as CSV; it is what the digest is of. */
export function composeStatementCsv({ accountId, month, lines }: StatementContent): string {
  const rows = lines.map((line) => ({
    account_id: accountId,
    month,
    key_id: line.keyId,
    model: line.model,
    adapter_digest: line.adapterDigest === ZERO_DIGEST ? null : line.adapterDigest,
    price_version: line.priceVersion,
    request_count: line.requestCount,
    prompt_tokens: line.promptTokens,
    cached_tokens: line.cachedTokens,
    completion_tokens: line.completionTokens,
    fee_micro_usd: line.feeMicroUsd,
  }))
  return composeCsvHeader(CSV_COLUMNS) + composeCsvLines(CSV_COLUMNS, rows)
}

/** SHA-256 of the statement as CSV, byte for byte. */
export async function digestStatement(content: StatementContent): Promise<Digest> {
  const bytes = new TextEncoder().encode(composeStatementCsv(content))
  return `0x${toHex(await crypto.subtle.digest('SHA-256', bytes))}`
}
