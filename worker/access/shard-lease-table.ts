/** A lease as its shard keeps it; what was settled by it is the key's own count (account-shard.ts). */
export interface ShardLease {
  readonly keyId: string
  /** Of the newest message about it, … */
  readonly number: number
  /** … and of the newest that was answered. */
  readonly answeredNumber: number
  readonly leasedMicroUsd: number
  readonly returnedMicroUsd: number
  /** What the account's object is known to know of the settled. */
  readonly toldMicroUsd: number
}

/** The leases of a shard, a row a key, mirrored in memory. Every method is synchronous. */
export class ShardLeaseTable {
  readonly #sql: SqlStorage
  #rows: Map<string, ShardLease> | null = null

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS shard_leases (
        key_id TEXT PRIMARY KEY, number INTEGER NOT NULL, answered_number INTEGER NOT NULL,
        leased_micro_usd INTEGER NOT NULL, returned_micro_usd INTEGER NOT NULL,
        told_micro_usd INTEGER NOT NULL
      ) WITHOUT ROWID`)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#rows = null
  }

  /** One that was never asked for is empty. */
  find(keyId: string): ShardLease {
    const counts = { leasedMicroUsd: 0, returnedMicroUsd: 0, toldMicroUsd: 0 }
    return this.#load().get(keyId) ?? { keyId, number: 0, answeredNumber: 0, ...counts }
  }

  list(): readonly ShardLease[] {
    return [...this.#load().values()]
  }

  put(lease: ShardLease): void {
    this.#sql.exec(
      `INSERT INTO shard_leases VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key_id) DO UPDATE SET
         number = ?2, answered_number = ?3, leased_micro_usd = ?4, returned_micro_usd = ?5,
         told_micro_usd = ?6`,
      lease.keyId,
      lease.number,
      lease.answeredNumber,
      lease.leasedMicroUsd,
      lease.returnedMicroUsd,
      lease.toldMicroUsd,
    )
    this.#load().set(lease.keyId, lease)
  }

  #load(): Map<string, ShardLease> {
    this.#rows ??= new Map(
      this.#sql
        .exec(
          `SELECT key_id AS keyId, number, answered_number AS answeredNumber,
             leased_micro_usd AS leasedMicroUsd, returned_micro_usd AS returnedMicroUsd,
             told_micro_usd AS toldMicroUsd FROM shard_leases`,
        )
        .toArray()
        .map((row) => [String(row.keyId), row as unknown as ShardLease]), // as the columns are named
    )
    return this.#rows
  }
}
