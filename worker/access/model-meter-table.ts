import { changeLimits, createRateMeter, type RateMeter } from './meter.ts'
import type { ModelLimit } from './rate-limits.ts'

/** What one model may be used within a scope, and how far it has been. */
export interface ModelMeter extends RateMeter {
  readonly model: string
}

/** Of so many scopes the meters are kept in memory. */
const KEPT_SCOPE_COUNT = 1_000

/**
 * The limits of single models in an account object, by scope as in `budget_windows`. Every method is
 * synchronous.
 */
export class ModelMeterTable {
  readonly #sql: SqlStorage
  /** As they are stored. */
  readonly #stored = new Map<string, readonly ModelMeter[]>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS model_meters (
        scope TEXT NOT NULL, model TEXT NOT NULL, requests_per_minute INTEGER,
        tokens_per_minute INTEGER, max_concurrent_requests INTEGER,
        request_level INTEGER NOT NULL, token_level INTEGER NOT NULL,
        buckets_updated_at_ms INTEGER NOT NULL, PRIMARY KEY (scope, model)
      ) WITHOUT ROWID`)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#stored.clear()
  }

  list(scope: string): readonly ModelMeter[] {
    const known = this.#stored.get(scope)
    if (known !== undefined) return known
    if (this.#stored.size >= KEPT_SCOPE_COUNT) this.#stored.clear()
    const meters = this.#sql
      .exec(
        `SELECT model, requests_per_minute AS requestsPerMinute, tokens_per_minute AS tokensPerMinute,
           max_concurrent_requests AS maxConcurrentRequests, request_level AS requestLevel,
           token_level AS tokenLevel, buckets_updated_at_ms AS bucketsUpdatedAtMs
         FROM model_meters WHERE scope = ? ORDER BY model`,
        scope,
      )
      .toArray() as unknown as ModelMeter[] // as the columns are named
    this.#stored.set(scope, meters)
    return meters
  }

  listSettings(scope: string): ModelLimit[] {
    return this.list(scope).map(
      ({ model, requestsPerMinute, tokensPerMinute, maxConcurrentRequests }) => ({
        ...{ model, requestsPerMinute, tokensPerMinute, maxConcurrentRequests },
      }),
    )
  }

  /** Sets the limits of a scope. What a bucket that stays holds stays too. */
  replace(
    scope: string,
    limits: readonly ModelLimit[],
    {
      nowMs,
      heldTokenCount,
    }: { readonly nowMs: number; readonly heldTokenCount: (model: string) => number },
  ): void {
    const before = this.list(scope)
    this.#stored.delete(scope)
    this.#sql.exec('DELETE FROM model_meters WHERE scope = ?', scope)
    for (const limit of limits) {
      const now = { nowMs, heldTokenCount: heldTokenCount(limit.model) }
      const kept = before.find(({ model }) => model === limit.model)
      const meter =
        kept === undefined ? createRateMeter(limit, now) : changeLimits(kept, limit, now)
      this.#sql.exec(
        'INSERT INTO model_meters VALUES (?, ?, ?, ?, ?, ?, ?, ?)',
        scope,
        meter.model,
        meter.requestsPerMinute,
        meter.tokensPerMinute,
        meter.maxConcurrentRequests,
        meter.requestLevel,
        meter.tokenLevel,
        meter.bucketsUpdatedAtMs,
      )
    }
  }

  /** Stores the levels of a meter that `list` gave. */
  update(scope: string, meter: ModelMeter): void {
    const others = this.list(scope).filter(({ model }) => model !== meter.model)
    this.#stored.set(scope, [...others, meter])
    this.#sql.exec(
      `UPDATE model_meters SET request_level = ?, token_level = ?, buckets_updated_at_ms = ?
       WHERE scope = ? AND model = ?`,
      meter.requestLevel,
      meter.tokenLevel,
      meter.bucketsUpdatedAtMs,
      scope,
      meter.model,
    )
  }
}
