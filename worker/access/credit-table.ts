import type { Credit, CreditGrant } from './credit.ts'

/** The credits of an account object, and whether it has to pay in advance. Every method is synchronous. */
export class CreditTable {
  readonly #sql: SqlStorage
  /** Null until they are first asked for, and after a transaction that was undone. */
  #isPrepaid: boolean | null = null
  #hasCredits: boolean | null = null

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS credits (
        sequence INTEGER PRIMARY KEY, credit_id TEXT NOT NULL UNIQUE,
        amount_micro_usd INTEGER NOT NULL,
        left_micro_usd INTEGER NOT NULL CHECK (left_micro_usd BETWEEN 0 AND amount_micro_usd),
        expires_at_ms INTEGER, reason TEXT NOT NULL, granted_at_ms INTEGER NOT NULL
      );
      CREATE INDEX IF NOT EXISTS credits_left ON credits (expires_at_ms) WHERE left_micro_usd > 0;
      CREATE TABLE IF NOT EXISTS prepaid (is_on INTEGER PRIMARY KEY) WITHOUT ROWID;
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#isPrepaid = null
    this.#hasCredits = null
  }

  setPrepaid(isPrepaid: boolean): void {
    this.#isPrepaid = isPrepaid
    this.#sql.exec('DELETE FROM prepaid')
    if (isPrepaid) this.#sql.exec('INSERT INTO prepaid VALUES (1)')
  }

  isPrepaid(): boolean {
    this.#isPrepaid ??= this.#sql.exec('SELECT is_on FROM prepaid').toArray().length > 0
    return this.#isPrepaid
  }

  find(creditId: string): Credit | null {
    return this.#select('WHERE credit_id = ?', creditId)[0] ?? null
  }

  insert(grant: CreditGrant, nowMs: number): void {
    this.#hasCredits = true
    this.#sql.exec(
      `INSERT INTO credits (credit_id, amount_micro_usd, left_micro_usd, expires_at_ms, reason,
         granted_at_ms) VALUES (?1, ?2, ?2, ?3, ?4, ?5)`,
      grant.creditId,
      grant.amountMicroUsd,
      grant.expiresAtMs,
      grant.reason,
      nowMs,
    )
  }

  /** All that were ever granted, the newest first. */
  list(limit: number): readonly Credit[] {
    return this.#select('ORDER BY sequence DESC LIMIT ?', limit)
  }

  /** What is left of the credits that have not expired. */
  sumLeft(nowMs: number): number {
    if (!this.hasAny()) return 0
    const query = `SELECT coalesce(sum(left_micro_usd), 0) AS leftMicroUsd FROM credits
      WHERE left_micro_usd > 0 AND (expires_at_ms IS NULL OR expires_at_ms > ?)`
    return this.#sql.exec<{ leftMicroUsd: number }>(query, nowMs).one().leftMicroUsd
  }

  /**
   * Pays from the credits that had not expired at `validAtMs`, those that expire first before the
   * others; returns how much they have paid.
   */
  draw(feeMicroUsd: number, validAtMs: number): number {
    if (feeMicroUsd === 0 || !this.hasAny()) return 0
    let paidMicroUsd = 0
    const usable = this.#select(
      `WHERE left_micro_usd > 0 AND (expires_at_ms IS NULL OR expires_at_ms > ?)
       ORDER BY expires_at_ms IS NULL, expires_at_ms, sequence`,
      validAtMs,
    )
    for (const { creditId, leftMicroUsd } of usable) {
      const partMicroUsd = Math.min(leftMicroUsd, feeMicroUsd - paidMicroUsd)
      if (partMicroUsd === 0) break
      this.#sql.exec(
        'UPDATE credits SET left_micro_usd = left_micro_usd - ? WHERE credit_id = ?',
        partMicroUsd,
        creditId,
      )
      paidMicroUsd += partMicroUsd
    }
    return paidMicroUsd
  }

  /** Most accounts never have a credit: they are not searched in every request. */
  hasAny(): boolean {
    this.#hasCredits ??= this.#select('LIMIT 1').length > 0
    return this.#hasCredits
  }

  #select(clause: string, ...values: SqlStorageValue[]): Credit[] {
    return this.#sql
      .exec(
        `SELECT credit_id AS creditId, amount_micro_usd AS amountMicroUsd,
           left_micro_usd AS leftMicroUsd, expires_at_ms AS expiresAtMs, reason,
           granted_at_ms AS grantedAtMs FROM credits ${clause}`,
        ...values,
      )
      .toArray() as unknown as Credit[] // as the columns are named
  }
}
