import type { IdempotencyClaim, IdempotencyRow, KeptAnswer } from './idempotency.ts'

/** Of this many newest claims the answers are kept; older ones stay claimed without them. */
const KEPT_ANSWER_COUNT = 4_096
const PURGE_SIZE = 1_000

/** The account object's memory of `Idempotency-Key`s. Every method is synchronous. */
export class IdempotencyTable {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS idempotency (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, key_id TEXT NOT NULL,
        idempotency_key TEXT NOT NULL, request_id TEXT NOT NULL UNIQUE,
        fingerprint TEXT NOT NULL, created_at_ms INTEGER NOT NULL, content_type TEXT, answer BLOB,
        UNIQUE (key_id, idempotency_key)
      )`)
  }

  find(keyId: string, idempotencyKey: string): IdempotencyRow | null {
    const [row] = this.#sql
      .exec(
        `SELECT request_id AS requestId, fingerprint, created_at_ms AS createdAtMs,
           content_type AS contentType, answer
         FROM idempotency WHERE key_id = ? AND idempotency_key = ?`,
        keyId,
        idempotencyKey,
      )
      .toArray() as unknown as StoredRow[] // as the columns are named
    if (row === undefined) return null
    const { contentType, answer, ...rest } = row
    if (contentType === null || answer === null) return { ...rest, answer: null }
    return { ...rest, answer: { contentType, body: new Uint8Array(answer) } }
  }

  /** Remembers that a request runs under a key; what was remembered of the key before is forgotten. */
  claim(
    keyId: string,
    claim: IdempotencyClaim,
    request: { readonly requestId: string; readonly nowMs: number },
  ): void {
    const { key, fingerprint } = claim
    this.#sql.exec('DELETE FROM idempotency WHERE key_id = ? AND idempotency_key = ?', keyId, key)
    this.#sql.exec(
      `INSERT INTO idempotency (key_id, idempotency_key, request_id, fingerprint, created_at_ms)
       VALUES (?, ?, ?, ?, ?)`,
      keyId,
      key,
      request.requestId,
      fingerprint,
      request.nowMs,
    )
    this.#sql.exec(
      `UPDATE idempotency SET content_type = NULL, answer = NULL
       WHERE sequence = (SELECT max(sequence) FROM idempotency) - ?`,
      KEPT_ANSWER_COUNT,
    )
  }

  keepAnswer(requestId: string, answer: KeptAnswer): void {
    this.#sql.exec(
      'UPDATE idempotency SET content_type = ?, answer = ? WHERE request_id = ?',
      answer.contentType,
      answer.body,
      requestId,
    )
  }

  /** Frees the key for another try. */
  release(requestId: string): void {
    this.#sql.exec('DELETE FROM idempotency WHERE request_id = ?', requestId)
  }

  firstClaimedAtMs(): number | null {
    const [row] = this.#sql
      .exec('SELECT created_at_ms AS atMs FROM idempotency ORDER BY sequence LIMIT 1')
      .toArray()
    return row === undefined ? null : Number(row.atMs)
  }

  /** Forgets some of those from before a time, in the order they were made. Costs nothing while the oldest may stay. */
  deleteClaimedBefore(claimedBeforeMs: number): void {
    const firstClaimedAtMs = this.firstClaimedAtMs()
    if (firstClaimedAtMs === null || firstClaimedAtMs >= claimedBeforeMs) return
    this.#sql.exec(
      `DELETE FROM idempotency WHERE created_at_ms < ?
       AND sequence IN (SELECT sequence FROM idempotency ORDER BY sequence LIMIT ?)`,
      claimedBeforeMs,
      PURGE_SIZE,
    )
  }
}

interface StoredRow extends Omit<IdempotencyRow, 'answer'> {
  readonly contentType: string | null
  readonly answer: ArrayBuffer | null
}
