import {
  type BudgetWindow,
  endOfWindow,
  findRollingRelief,
  startOfWindow,
  type WindowBudgetSettings,
  type WindowSpending,
} from './budget-window.ts'

/** Whose budgets: the account's, under this name, or those of the key of this id. */
export const ACCOUNT_SCOPE = 'account'

/** Of so many scopes the windows are kept in memory. */
const KEPT_SCOPE_COUNT = 1_000

interface StoredWindow {
  readonly window: BudgetWindow
  readonly durationMs: number | null
  readonly limitMicroUsd: number
  readonly startedAtMs: number
  readonly spentMicroUsd: number
}

/**
 * The window budgets of an account object. A calendar window keeps its sum and when it began; the
 * rolling one keeps each spend until it leaves, and their sum. Every method is synchronous.
 */
export class BudgetWindowTable {
  readonly #sql: SqlStorage
  /** By scope, as they are stored. */
  readonly #stored = new Map<string, readonly StoredWindow[]>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS budget_windows (
        scope TEXT NOT NULL, window TEXT NOT NULL, duration_ms INTEGER,
        limit_micro_usd INTEGER NOT NULL, started_at_ms INTEGER NOT NULL,
        spent_micro_usd INTEGER NOT NULL, PRIMARY KEY (scope, window)
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS rolling_spends (
        scope TEXT NOT NULL, at_ms INTEGER NOT NULL, micro_usd INTEGER NOT NULL,
        PRIMARY KEY (scope, at_ms)
      ) WITHOUT ROWID;
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#stored.clear()
  }

  /** Sets the windows of a scope. What a window that stays has spent stays too, unless it is rolling and lasts otherwise. */
  replace(scope: string, budgets: readonly WindowBudgetSettings[], nowMs: number): void {
    const before = this.#list(scope)
    this.#stored.delete(scope)
    this.#sql.exec('DELETE FROM budget_windows WHERE scope = ?', scope)
    for (const budget of budgets) {
      const durationMs = budget.window === 'rolling' ? budget.durationMs : null
      const kept = before.find(
        (each) => each.window === budget.window && each.durationMs === durationMs,
      )
      this.#sql.exec(
        'INSERT INTO budget_windows VALUES (?, ?, ?, ?, ?, ?)',
        scope,
        budget.window,
        durationMs,
        budget.limitMicroUsd,
        kept?.startedAtMs ?? nowMs,
        kept?.spentMicroUsd ?? 0,
      )
      if (budget.window === 'rolling' && kept === undefined) this.#forgetSpends(scope)
    }
    if (!budgets.some(({ window }) => window === 'rolling')) this.#forgetSpends(scope)
  }

  listSettings(scope: string): WindowBudgetSettings[] {
    return this.#list(scope).map(({ window, durationMs, limitMicroUsd }) =>
      window === 'rolling'
        ? { window, limitMicroUsd, durationMs: requireDuration(durationMs) }
        : { window, limitMicroUsd },
    )
  }

  /** The windows of a scope as they stand now; changes nothing. */
  list(scope: string, nowMs: number): WindowSpending[] {
    return this.#list(scope).map((stored) => {
      const { window, durationMs, limitMicroUsd } = stored
      if (window === 'rolling') {
        const leftMicroUsd = this.#sumLeft(scope, nowMs - requireDuration(durationMs))
        const spentMicroUsd = stored.spentMicroUsd - leftMicroUsd
        return { window, durationMs, limitMicroUsd, spentMicroUsd, resetsAtMs: null }
      }
      const spentMicroUsd = isCurrent(window, stored, nowMs) ? stored.spentMicroUsd : 0
      const resetsAtMs = endOfWindow(window, Math.max(nowMs, stored.startedAtMs))
      return { window, durationMs: null, limitMicroUsd, spentMicroUsd, resetsAtMs }
    })
  }

  /** Counts a fee that is settled now in all windows of a scope. */
  spend(scope: string, feeMicroUsd: number, nowMs: number): void {
    for (const stored of this.#list(scope)) {
      const { window } = stored
      if (window === 'rolling') this.#spendRolling(scope, stored, { feeMicroUsd, nowMs })
      else if (isCurrent(window, stored, nowMs))
        this.#update(scope, { ...stored, spentMicroUsd: stored.spentMicroUsd + feeMicroUsd })
      else this.#update(scope, { ...stored, startedAtMs: nowMs, spentMicroUsd: feeMicroUsd })
    }
  }

  /** When a rolling window will have room for so much more; null if waiting does not help. */
  findRollingRelief(scope: string, neededMicroUsd: number, nowMs: number): number | null {
    const rolling = this.#list(scope).find(({ window }) => window === 'rolling')
    if (rolling === undefined) return null
    const durationMs = requireDuration(rolling.durationMs)
    const spends = this.#sql.exec<{ atMs: number; microUsd: number }>(
      `SELECT at_ms AS atMs, micro_usd AS microUsd FROM rolling_spends
       WHERE scope = ? AND at_ms > ? ORDER BY at_ms`,
      scope,
      nowMs - durationMs,
    )
    return findRollingRelief(spends, neededMicroUsd, durationMs)
  }

  #spendRolling(
    scope: string,
    stored: StoredWindow,
    { feeMicroUsd, nowMs }: { readonly feeMicroUsd: number; readonly nowMs: number },
  ): void {
    const throughMs = nowMs - requireDuration(stored.durationMs)
    const leftMicroUsd = this.#sumLeft(scope, throughMs)
    this.#sql.exec('DELETE FROM rolling_spends WHERE scope = ? AND at_ms <= ?', scope, throughMs)
    this.#sql.exec(
      `INSERT INTO rolling_spends VALUES (?, ?, ?)
       ON CONFLICT (scope, at_ms) DO UPDATE SET micro_usd = micro_usd + excluded.micro_usd`,
      scope,
      nowMs,
      feeMicroUsd,
    )
    const spentMicroUsd = stored.spentMicroUsd - leftMicroUsd + feeMicroUsd
    this.#update(scope, { ...stored, spentMicroUsd })
  }

  #update(scope: string, { window, startedAtMs, spentMicroUsd }: StoredWindow): void {
    this.#stored.delete(scope)
    this.#sql.exec(
      `UPDATE budget_windows SET started_at_ms = ?, spent_micro_usd = ?
       WHERE scope = ? AND window = ?`,
      startedAtMs,
      spentMicroUsd,
      scope,
      window,
    )
  }

  /** What has left the rolling window by now and is still stored. */
  #sumLeft(scope: string, throughMs: number): number {
    const query = `SELECT coalesce(sum(micro_usd), 0) AS microUsd FROM rolling_spends
      WHERE scope = ? AND at_ms <= ?`
    return this.#sql.exec<{ microUsd: number }>(query, scope, throughMs).one().microUsd
  }

  #forgetSpends(scope: string): void {
    this.#sql.exec('DELETE FROM rolling_spends WHERE scope = ?', scope)
  }

  #list(scope: string): readonly StoredWindow[] {
    const known = this.#stored.get(scope)
    if (known !== undefined) return known
    if (this.#stored.size >= KEPT_SCOPE_COUNT) this.#stored.clear()
    const stored = this.#sql
      .exec(
        `SELECT window, duration_ms AS durationMs, limit_micro_usd AS limitMicroUsd,
           started_at_ms AS startedAtMs, spent_micro_usd AS spentMicroUsd
         FROM budget_windows WHERE scope = ? ORDER BY window`,
        scope,
      )
      .toArray() as unknown as StoredWindow[] // as the columns are named
    this.#stored.set(scope, stored)
    return stored
  }
}

/** Whether what is stored was spent in the window of now. A clock that went back stays in the later one. */
function isCurrent(
  window: Exclude<BudgetWindow, 'rolling'>,
  { startedAtMs }: StoredWindow,
  nowMs: number,
): boolean {
  return startOfWindow(window, nowMs) <= startedAtMs
}

function requireDuration(durationMs: number | null): number {
  if (durationMs === null) throw new Error('A rolling window has no duration.')
  return durationMs
}
