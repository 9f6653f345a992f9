import type { Meter } from './meter.ts'

export const METER_COLUMNS = `
  requests_per_minute INTEGER, tokens_per_minute INTEGER, max_concurrent_requests INTEGER,
  budget_micro_usd INTEGER, spent_micro_usd INTEGER NOT NULL,
  request_level INTEGER NOT NULL, token_level INTEGER NOT NULL,
  buckets_updated_at_ms INTEGER NOT NULL`

export const METER_FIELDS = `
  requests_per_minute AS requestsPerMinute, tokens_per_minute AS tokensPerMinute,
  max_concurrent_requests AS maxConcurrentRequests, budget_micro_usd AS budgetMicroUsd,
  spent_micro_usd AS spentMicroUsd, request_level AS requestLevel, token_level AS tokenLevel,
  buckets_updated_at_ms AS bucketsUpdatedAtMs`

export const METER_ASSIGNMENTS = `
  requests_per_minute = ?, tokens_per_minute = ?, max_concurrent_requests = ?,
  budget_micro_usd = ?, spent_micro_usd = ?, request_level = ?, token_level = ?,
  buckets_updated_at_ms = ?`

/** In the order of the columns. */
export function meterValues(meter: Meter) {
  return [
    meter.requestsPerMinute,
    meter.tokensPerMinute,
    meter.maxConcurrentRequests,
    meter.budgetMicroUsd,
    meter.spentMicroUsd,
    meter.requestLevel,
    meter.tokenLevel,
    meter.bucketsUpdatedAtMs,
  ]
}

export function placeholders(count: number): string {
  return Array(count).fill('?').join(', ')
}
