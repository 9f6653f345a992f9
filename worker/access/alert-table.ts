import type { Alert, AlertRule, StoredAlert } from './alert.ts'

/** What was delivered or given up is remembered for this many newer ones. */
const KEPT_ALERT_COUNT = 1_000

/** The alerts of an account object, and whom to tell. Every method is synchronous. */
export class AlertTable {
  readonly #sql: SqlStorage
  /** Undefined until it is first asked for. */
  #rule: AlertRule | null | undefined

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS alert_rule (id INTEGER PRIMARY KEY CHECK (id = 1), rule TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS alerts (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT, alert_id TEXT NOT NULL UNIQUE,
        body TEXT NOT NULL, due_at_ms INTEGER, attempt_count INTEGER NOT NULL,
        delivered_at_ms INTEGER
      );
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#rule = undefined
  }

  setRule(rule: AlertRule | null): void {
    this.#rule = undefined
    this.#sql.exec('DELETE FROM alert_rule')
    if (rule !== null) this.#sql.exec('INSERT INTO alert_rule VALUES (1, ?)', JSON.stringify(rule))
  }

  findRule(): AlertRule | null {
    if (this.#rule === undefined) this.#rule = this.#readRule()
    return this.#rule
  }

  #readRule(): AlertRule | null {
    const [row] = this.#sql.exec<{ rule: string }>('SELECT rule FROM alert_rule').toArray()
    return row === undefined ? null : (JSON.parse(row.rule) as AlertRule) // by setRule
  }

  insert(alert: Alert): void {
    this.#sql.exec(
      'INSERT INTO alerts (alert_id, body, due_at_ms, attempt_count) VALUES (?, ?, ?, 0)',
      alert.alertId,
      JSON.stringify(alert),
      alert.createdAtMs,
    )
    this.#sql.exec(
      `DELETE FROM alerts WHERE due_at_ms IS NULL
       AND sequence <= (SELECT max(sequence) FROM alerts) - ?`,
      KEPT_ALERT_COUNT,
    )
  }

  /** The newest first. */
  list(limit: number): StoredAlert[] {
    return this.#read('ORDER BY sequence DESC LIMIT ?', limit)
  }

  listDue(nowMs: number, limit: number): StoredAlert[] {
    return this.#read('WHERE due_at_ms <= ? ORDER BY due_at_ms LIMIT ?', nowMs, limit)
  }

  nextDueAtMs(): number | null {
    const query = 'SELECT min(due_at_ms) AS atMs FROM alerts'
    return this.#sql.exec<{ atMs: number | null }>(query).one().atMs
  }

  noteAttempt(
    alertId: string,
    { dueAtMs, deliveredAtMs }: Pick<StoredAlert, 'dueAtMs' | 'deliveredAtMs'>,
  ): void {
    this.#sql.exec(
      `UPDATE alerts SET attempt_count = attempt_count + 1, due_at_ms = ?, delivered_at_ms = ?
       WHERE alert_id = ?`,
      dueAtMs,
      deliveredAtMs,
      alertId,
    )
  }

  #read(clause: string, ...bindings: SqlStorageValue[]): StoredAlert[] {
    const rows = this.#sql.exec<{
      body: string
      dueAtMs: number | null
      attemptCount: number
      deliveredAtMs: number | null
    }>(
      `SELECT body, due_at_ms AS dueAtMs, attempt_count AS attemptCount,
         delivered_at_ms AS deliveredAtMs FROM alerts ${clause}`,
      ...bindings,
    )
    const before = { memberId: null } // of what was stored before there were members
    return rows
      .toArray()
      .map(({ body, ...state }) => ({ ...before, ...JSON.parse(body), ...state })) // by insert
  }
}
