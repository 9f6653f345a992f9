import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite'

/** Emptied databases, by what their tables are for. */
const emptied = new Map<string, MemoryDatabase[]>()

/**
 * A SQLite database in memory that prepares each query once. A run that ended well gives its
 * databases to the next one: tables and statements stay, rows do not, so that a run cannot tell.
 */
export class MemoryDatabase extends DatabaseSync {
  readonly #purpose: string
  readonly #statements = new Map<string, StatementSync>()
  readonly #definitions = new Set<string>()
  #areDefinitionsLasting = false

  private constructor(purpose: string) {
    super(':memory:')
    this.#purpose = purpose
  }

  static take(purpose: string): MemoryDatabase {
    return emptied.get(purpose)?.pop() ?? new MemoryDatabase(purpose)
  }

  override prepare(query: string): StatementSync {
    const statement = this.#statements.get(query) ?? super.prepare(query)
    this.#statements.set(query, statement)
    return statement
  }

  /** Runs one statement; returns how many rows it changed. */
  run(query: string, ...values: SQLInputValue[]): number {
    return Number(this.prepare(query).run(...values).changes)
  }

  /** Makes tables, unless a run before has left them. */
  define(definitions: string): void {
    if (this.#areDefinitionsLasting && this.#definitions.has(definitions)) return
    this.exec(definitions)
    this.#definitions.add(definitions)
  }

  /** Only after a run that ended well: what was defined is committed, and no transaction is open. */
  giveBack(): void {
    const tables = this.prepare(`SELECT name FROM sqlite_schema WHERE type = 'table'`).all()
    for (const { name } of tables) this.run(`DELETE FROM ${String(name)}`)
    this.#areDefinitionsLasting = true
    emptied.set(this.#purpose, [...(emptied.get(this.#purpose) ?? []), this])
  }
}
