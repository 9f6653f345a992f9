import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import { type GrantedLease, heldByLease } from './lease.ts'

interface LeaseOwners {
  readonly shard: number
  readonly keyId: string
  /** Whose key it is; null: the account's own. */
  readonly memberId: string | null
}

export type LeaseRow = LeaseOwners & GrantedLease

/**
 * What an account's object has leased to its shards, a row a shard and key, for ever: a shard that has
 * none has never been given anything. Mirrored in memory. Every method is synchronous.
 */
export class LeaseTable {
  readonly #sql: SqlStorage
  /** Null until they are first asked for, and after a transaction that was undone. */
  #rows: Map<string, LeaseRow> | null = null
  /** By scope. */
  readonly #heldMicroUsd = new Map<string, number>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS leases (
        shard INTEGER NOT NULL, key_id TEXT NOT NULL, member_id TEXT, number INTEGER NOT NULL,
        leased_micro_usd INTEGER NOT NULL, settled_micro_usd INTEGER NOT NULL,
        returned_micro_usd INTEGER NOT NULL, PRIMARY KEY (shard, key_id)
      ) WITHOUT ROWID`)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#rows = null
    this.#heldMicroUsd.clear()
  }

  find(shard: number, keyId: string): LeaseRow | null {
    return this.#load().get(nameOf({ shard, keyId })) ?? null
  }

  put(row: LeaseRow): void {
    this.#sql.exec(
      `INSERT INTO leases VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (shard, key_id) DO UPDATE
       SET number = ?4, leased_micro_usd = ?5, settled_micro_usd = ?6, returned_micro_usd = ?7`,
      row.shard,
      row.keyId,
      row.memberId,
      row.number,
      row.leasedMicroUsd,
      row.settledMicroUsd,
      row.returnedMicroUsd,
    )
    const before = this.find(row.shard, row.keyId)
    if (before !== null) this.#hold(before, -1)
    this.#load().set(nameOf(row), row)
    this.#hold(row, 1)
  }

  /** What leases hold of a scope, micro-USD. */
  sum(scope: string): number {
    this.#load()
    return this.#heldMicroUsd.get(scope) ?? 0
  }

  /** The shards that were ever given anything. */
  listShards(): readonly number[] {
    return [...new Set([...this.#load().values()].map(({ shard }) => shard))]
  }

  #load(): Map<string, LeaseRow> {
    if (this.#rows !== null) return this.#rows
    const rows = this.#sql
      .exec(
        `SELECT shard, key_id AS keyId, member_id AS memberId, number,
           leased_micro_usd AS leasedMicroUsd, settled_micro_usd AS settledMicroUsd,
           returned_micro_usd AS returnedMicroUsd FROM leases`,
      )
      .toArray() as unknown as LeaseRow[] // as the columns are named
    this.#heldMicroUsd.clear()
    this.#rows = new Map(rows.map((row) => [nameOf(row), row]))
    for (const row of rows) this.#hold(row, 1)
    return this.#rows
  }

  #hold(row: LeaseRow, sign: 1 | -1): void {
    const scopes = [row.keyId, ACCOUNT_SCOPE, ...(row.memberId === null ? [] : [row.memberId])]
    for (const scope of scopes) {
      const heldMicroUsd = this.#heldMicroUsd.get(scope) ?? 0
      this.#heldMicroUsd.set(scope, heldMicroUsd + sign * heldByLease(row))
    }
  }
}

function nameOf({ shard, keyId }: Pick<LeaseRow, 'shard' | 'keyId'>): string {
  return `${shard} ${keyId}`
}
