import { endOfMonth, monthOf } from '../ledger/month.ts'
import type { SettledMonth } from '../ledger/statement.ts'

/**
 * What an account object has settled, by UTC month, and which months are sealed: nothing is settled
 * into them any more. Every method is synchronous.
 */
export class MonthTable {
  readonly #sql: SqlStorage
  /** When the last sealed month ended; null until it is asked for, and after a transaction that was undone. */
  #sealedEndMs: number | null = null
  /** What was added in this transaction, by month. */
  readonly #added = new Map<string, Omit<SettledMonth, 'month'>>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS settled_months (
        month TEXT PRIMARY KEY, request_count INTEGER NOT NULL, fee_micro_usd INTEGER NOT NULL,
        credited_micro_usd INTEGER NOT NULL
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS sealed_months (end_ms INTEGER PRIMARY KEY) WITHOUT ROWID;
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#sealedEndMs = null
    this.#added.clear()
  }

  /** When what is settled now counts as settled: a clock that went back does not open a sealed month. */
  settlingTime(nowMs: number): number {
    const query = 'SELECT coalesce(max(end_ms), 0) AS endMs FROM sealed_months'
    this.#sealedEndMs ??= this.#sql.exec<{ endMs: number }>(query).one().endMs
    return Math.max(nowMs, this.#sealedEndMs)
  }

  /** Adds a settlement; stored by `write`. */
  add(atMs: number, feeMicroUsd: number, creditedMicroUsd: number): void {
    const month = monthOf(atMs)
    const added = this.#added.get(month)
    this.#added.set(month, {
      requestCount: (added?.requestCount ?? 0) + 1,
      feeMicroUsd: (added?.feeMicroUsd ?? 0) + feeMicroUsd,
      creditedMicroUsd: (added?.creditedMicroUsd ?? 0) + creditedMicroUsd,
    })
  }

  /** Stores what was added; the last step of every transaction that settles. */
  write(): void {
    for (const [month, { requestCount, feeMicroUsd, creditedMicroUsd }] of this.#added)
      this.#sql.exec(
        `INSERT INTO settled_months VALUES (?, ?, ?, ?) ON CONFLICT (month) DO UPDATE SET
           request_count = request_count + excluded.request_count,
           fee_micro_usd = fee_micro_usd + excluded.fee_micro_usd,
           credited_micro_usd = credited_micro_usd + excluded.credited_micro_usd`,
        month,
        requestCount,
        feeMicroUsd,
        creditedMicroUsd,
      )
    this.#added.clear()
  }

  /** Seals a month if it is over, and those before it. False: it runs. */
  seal(month: string, nowMs: number): boolean {
    const endMs = endOfMonth(month)
    if (this.settlingTime(nowMs) < endMs) return false
    this.#sql.exec('INSERT INTO sealed_months VALUES (?) ON CONFLICT DO NOTHING', endMs)
    this.#sealedEndMs = null
    return true
  }

  find(month: string): SettledMonth {
    const [row] = this.#select('WHERE month = ?', month)
    return row ?? { month, requestCount: 0, feeMicroUsd: 0, creditedMicroUsd: 0 }
  }

  /** Those with settlements, the newest first. */
  list(): readonly SettledMonth[] {
    return this.#select('ORDER BY month DESC')
  }

  #select(clause: string, ...values: string[]): SettledMonth[] {
    return this.#sql
      .exec(
        `SELECT month, request_count AS requestCount, fee_micro_usd AS feeMicroUsd,
           credited_micro_usd AS creditedMicroUsd FROM settled_months ${clause}`,
        ...values,
      )
      .toArray() as unknown as SettledMonth[] // as the columns are named
  }
}
