import type { KeptAnswer } from './idempotency.ts'
import { CACHE_KEPT_MS, type CachedAnswer, MAX_CACHED_ANSWER_BYTES } from './response-cache.ts'

/** Of the answers that were kept last, so many and about so much stay; replaced ones count. */
const MAX_ANSWER_COUNT = 1_024
const MAX_TOTAL_BYTES = 64 * 1_048_576

/** The answers that an account object may give again. Every method is synchronous. */
export class ResponseCacheTable {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS cached_answers (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, cache_key TEXT NOT NULL UNIQUE,
        request_id TEXT NOT NULL, kept_at_ms INTEGER NOT NULL, end_bytes INTEGER NOT NULL UNIQUE,
        content_type TEXT NOT NULL, answer BLOB NOT NULL
      )`)
  }

  find(cacheKey: string, nowMs: number): CachedAnswer | null {
    const [row] = this.#sql
      .exec(
        `SELECT request_id AS requestId, content_type AS contentType, answer AS body
         FROM cached_answers WHERE cache_key = ? AND kept_at_ms > ?`,
        cacheKey,
        nowMs - CACHE_KEPT_MS,
      )
      .toArray() as unknown as (Omit<CachedAnswer, 'body'> & { readonly body: ArrayBuffer })[] // as the columns are named
    return row === undefined ? null : { ...row, body: new Uint8Array(row.body) }
  }

  /** Keeps an answer in the place of an earlier one, unless it is too large; the oldest make room. */
  keep(
    cacheKey: string,
    { contentType, body }: KeptAnswer,
    { requestId, nowMs }: { readonly requestId: string; readonly nowMs: number },
  ): void {
    if (body.length === 0 || body.length > MAX_CACHED_ANSWER_BYTES) return
    const endBytes = this.#findEnd() + body.length
    this.#sql.exec('DELETE FROM cached_answers WHERE cache_key = ?', cacheKey)
    this.#sql.exec(
      `INSERT INTO cached_answers
         (cache_key, request_id, kept_at_ms, end_bytes, content_type, answer)
       VALUES (?, ?, ?, ?, ?, ?)`,
      cacheKey,
      requestId,
      nowMs,
      endBytes,
      contentType,
      body,
    )
    this.#sql.exec(
      `DELETE FROM cached_answers WHERE end_bytes <= ?
       OR sequence <= (SELECT max(sequence) FROM cached_answers) - ?`,
      endBytes - MAX_TOTAL_BYTES,
      MAX_ANSWER_COUNT,
    )
  }

  /** Where the newest answer ends, counting all that were ever kept one after the other. */
  #findEnd(): number {
    const query = 'SELECT coalesce(max(end_bytes), 0) AS endBytes FROM cached_answers'
    return this.#sql.exec<{ endBytes: number }>(query).one().endBytes
  }

  firstKeptAtMs(): number | null {
    const [row] = this.#sql
      .exec('SELECT kept_at_ms AS atMs FROM cached_answers ORDER BY sequence LIMIT 1')
      .toArray()
    return row === undefined ? null : Number(row.atMs)
  }

  /** Costs nothing while the oldest may stay. */
  deleteKeptBefore(keptBeforeMs: number): void {
    const firstKeptAtMs = this.firstKeptAtMs()
    if (firstKeptAtMs === null || firstKeptAtMs >= keptBeforeMs) return
    this.#sql.exec('DELETE FROM cached_answers WHERE kept_at_ms < ?', keptBeforeMs)
  }
}
