import type { Digest } from '../../protocol/digest.ts'
import type { LedgerEntry } from '../ledger/usage-store.ts'
import type { AccountCounter } from './account-contract.ts'
import type { AccountLimits } from './account-settings.ts'
import type { Meter, RateMeter } from './meter.ts'
import {
  METER_ASSIGNMENTS,
  METER_COLUMNS,
  METER_FIELDS,
  meterValues,
  placeholders,
} from './meter-columns.ts'

/** The account as it is stored; one row. */
export type AccountRow = Meter &
  AccountLimits & {
    readonly accountId: string
    /** Hides the account in public leaves; 32 random bytes. */
    readonly salt: Digest
    readonly createdAtMs: number
  }

/** An API key as it is stored: its hash, never the key. */
export type KeyRow = Meter & {
  readonly keyId: string
  readonly keyHash: string
  readonly name: string
  readonly start: string
  readonly createdAtMs: number
  readonly expiresAtMs: number | null
  readonly revokedAtMs: number | null
  /** Null: the key may use all. */
  readonly models: readonly string[] | null
}

const KEY_FIELDS = `
  key_id AS keyId, key_hash AS keyHash, name, start, created_at_ms AS createdAtMs,
  expires_at_ms AS expiresAtMs, revoked_at_ms AS revokedAtMs, models, ${METER_FIELDS}`

/** Of so many keys the rows are kept in memory. */
const KEPT_KEY_COUNT = 1_000

/**
 * The tables of an account object (docs/storage-schema.md). Every method is synchronous, so that
 * several in a row are one transaction. Account and keys are kept in memory; their meters are
 * stored by `writeMeters`, once a transaction.
 */
export class AccountTables {
  readonly #sql: SqlStorage
  #account: AccountRow | null = null
  readonly #keys = new Map<string, KeyRow>()
  readonly #keyIds = new Map<string, string>()
  #isAccountChanged = false
  readonly #changedKeyIds = new Set<string>()
  /** Null until it is first asked for, after a flush, and after a transaction that was undone. */
  #outboxCount: number | null = null

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS account (
        account_id TEXT PRIMARY KEY, salt TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
        ${METER_COLUMNS}
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS keys (
        key_id TEXT PRIMARY KEY, key_hash TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        start TEXT NOT NULL, created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER,
        revoked_at_ms INTEGER, models TEXT, ${METER_COLUMNS}
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS settled (
        sequence INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE,
        fee_micro_usd INTEGER NOT NULL, settled_at_ms INTEGER NOT NULL
      );
      CREATE TABLE IF NOT EXISTS outbox (sequence INTEGER PRIMARY KEY, entry TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS counters (
        name TEXT PRIMARY KEY, count INTEGER NOT NULL
      ) WITHOUT ROWID;
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#account = null
    this.#isAccountChanged = false
    this.#outboxCount = null
    this.#forgetKeys()
  }

  #forgetKeys(): void {
    this.#keys.clear()
    this.#keyIds.clear()
    this.#changedKeyIds.clear()
  }

  /** Stores the meters that have changed; the last step of every transaction that may change one. */
  writeMeters(): void {
    if (this.#isAccountChanged && this.#account !== null)
      this.#sql.exec(`UPDATE account SET ${METER_ASSIGNMENTS}`, ...meterValues(this.#account))
    for (const keyId of this.#changedKeyIds) {
      const key = this.#keys.get(keyId)
      if (key === undefined) throw new Error(`The meter of ${keyId} is lost.`)
      const query = `UPDATE keys SET ${METER_ASSIGNMENTS} WHERE key_id = ?`
      this.#sql.exec(query, ...meterValues(key), keyId)
    }
    this.#isAccountChanged = false
    this.#changedKeyIds.clear()
  }

  findAccount(): AccountRow | null {
    if (this.#account !== null) return this.#account
    const [row] = this.#all<AccountRow>(
      `SELECT account_id AS accountId, salt, created_at_ms AS createdAtMs, ${METER_FIELDS}
       FROM account`,
    )
    this.#account = row ?? null
    return this.#account
  }

  insertAccount(account: AccountRow): void {
    this.#sql.exec(
      `INSERT INTO account VALUES (?, ?, ?, ${placeholders(8)})`,
      account.accountId,
      account.salt,
      account.createdAtMs,
      ...meterValues(account),
    )
  }

  updateAccountMeter(meter: RateMeter): void {
    const account = this.findAccount()
    // An account's meter has every limit that an account has.
    this.#account = account && ({ ...account, ...meter } as AccountRow)
    this.#isAccountChanged = true
  }

  findKeyByHash(keyHash: string): KeyRow | null {
    const keyId = this.#keyIds.get(keyHash)
    return keyId === undefined ? this.#findKey('key_hash', keyHash) : this.findKeyById(keyId)
  }

  findKeyById(keyId: string): KeyRow | null {
    return this.#keys.get(keyId) ?? this.#findKey('key_id', keyId)
  }

  #findKey(column: 'key_hash' | 'key_id', value: string): KeyRow | null {
    const query = `SELECT ${KEY_FIELDS} FROM keys WHERE ${column} = ?`
    const [row] = this.#all<StoredKeyRow>(query, value)
    if (row === undefined) return null
    const key = readKeyRow(row)
    // Never in a transaction that has changed meters of keys which are not written yet.
    if (this.#keys.size >= KEPT_KEY_COUNT && this.#changedKeyIds.size === 0) this.#forgetKeys()
    this.#keys.set(key.keyId, key)
    this.#keyIds.set(key.keyHash, key.keyId)
    return key
  }

  listKeys(): readonly KeyRow[] {
    const query = `SELECT ${KEY_FIELDS} FROM keys ORDER BY created_at_ms, key_id`
    return this.#all<StoredKeyRow>(query).map(readKeyRow)
  }

  insertKey(key: KeyRow): void {
    this.#sql.exec(
      `INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, ${placeholders(8)})`,
      key.keyId,
      key.keyHash,
      key.name,
      key.start,
      key.createdAtMs,
      key.expiresAtMs,
      key.revokedAtMs,
      key.models === null ? null : JSON.stringify(key.models),
      ...meterValues(key),
    )
  }

  revokeKey(keyId: string, revokedAtMs: number): void {
    this.#sql.exec('UPDATE keys SET revoked_at_ms = ? WHERE key_id = ?', revokedAtMs, keyId)
    this.#forgetKeys()
  }

  updateKey(
    keyId: string,
    { name, expiresAtMs, models }: Pick<KeyRow, 'name' | 'expiresAtMs' | 'models'>,
  ): void {
    this.#sql.exec(
      'UPDATE keys SET name = ?, expires_at_ms = ?, models = ? WHERE key_id = ?',
      name,
      expiresAtMs,
      models === null ? null : JSON.stringify(models),
      keyId,
    )
    this.#forgetKeys()
  }

  replaceKeySecret(keyId: string, secret: Pick<KeyRow, 'keyHash' | 'start'>): void {
    this.#sql.exec(
      'UPDATE keys SET key_hash = ?, start = ? WHERE key_id = ?',
      secret.keyHash,
      secret.start,
      keyId,
    )
    this.#forgetKeys()
  }

  updateKeyMeter(keyId: string, meter: RateMeter): void {
    const key = this.findKeyById(keyId)
    if (key === null) throw new Error(`There is no key ${keyId}.`)
    this.#keys.set(keyId, { ...key, ...meter })
    this.#changedKeyIds.add(keyId)
  }

  /** The fee a request was settled with; null if it was not, or longer ago than records are kept. */
  findSettledFee(requestId: string): number | null {
    const [row] = this.#all<{ fee: number }>(
      'SELECT fee_micro_usd AS fee FROM settled WHERE request_id = ?',
      requestId,
    )
    return row?.fee ?? null
  }

  insertSettled(requestId: string, feeMicroUsd: number, settledAtMs: number): void {
    this.#sql.exec(
      'INSERT INTO settled (request_id, fee_micro_usd, settled_at_ms) VALUES (?, ?, ?)',
      requestId,
      feeMicroUsd,
      settledAtMs,
    )
  }

  /** Forgets up to `limit` settlements from before a time, in the order they were made. Costs nothing while the oldest may stay. */
  deleteSettledBefore(settledBeforeMs: number, limit: number): void {
    const firstSettledAtMs = this.firstSettledAtMs()
    if (firstSettledAtMs === null || firstSettledAtMs >= settledBeforeMs) return
    this.#sql.exec(
      `DELETE FROM settled WHERE settled_at_ms < ?
       AND sequence IN (SELECT sequence FROM settled ORDER BY sequence LIMIT ?)`,
      settledBeforeMs,
      limit,
    )
  }

  appendOutbox(entry: LedgerEntry): void {
    this.#sql.exec('INSERT INTO outbox (entry) VALUES (?)', JSON.stringify(entry))
    if (this.#outboxCount !== null) this.#outboxCount += 1
  }

  countOutbox(): number {
    this.#outboxCount ??= this.#one<{ count: number }>('SELECT count(*) AS count FROM outbox').count
    return this.#outboxCount
  }

  /** The oldest entries, and the sequence number of the last of them. */
  readOutbox(limit: number): { entries: readonly LedgerEntry[]; lastSequence: number } {
    const rows = this.#all<{ sequence: number; entry: string }>(
      'SELECT sequence, entry FROM outbox ORDER BY sequence LIMIT ?',
      limit,
    )
    return {
      entries: rows.map((row) => JSON.parse(row.entry) as LedgerEntry), // written by appendOutbox
      lastSequence: rows.at(-1)?.sequence ?? 0,
    }
  }

  deleteOutboxThrough(sequence: number): void {
    this.#outboxCount = null
    this.#sql.exec('DELETE FROM outbox WHERE sequence <= ?', sequence)
  }

  /** When the oldest remembered settlement was made; null where there is none. */
  firstSettledAtMs(): number | null {
    const query = 'SELECT settled_at_ms AS atMs FROM settled ORDER BY sequence LIMIT 1'
    return this.#all<{ atMs: number }>(query)[0]?.atMs ?? null
  }

  incrementCounter(name: AccountCounter): void {
    this.#sql.exec(
      'INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET count = count + 1',
      name,
    )
  }

  readCounters(): Readonly<Record<AccountCounter, number>> {
    const rows = this.#all<{ name: AccountCounter; count: number }>(
      'SELECT name, count FROM counters',
    )
    return {
      swept: 0,
      released: 0,
      clamped: 0,
      ...Object.fromEntries(rows.map((row) => [row.name, row.count])),
    }
  }

  /** The query must name its columns as `T` names its fields. */
  #all<T>(query: string, ...bindings: SqlStorageValue[]): T[] {
    return this.#sql.exec(query, ...bindings).toArray() as T[]
  }

  #one<T>(query: string, ...bindings: SqlStorageValue[]): T {
    return this.#sql.exec(query, ...bindings).one() as T // as above
  }
}

type StoredKeyRow = Omit<KeyRow, 'models'> & { readonly models: string | null }

function readKeyRow(row: StoredKeyRow): KeyRow {
  const models = row.models === null ? null : (JSON.parse(row.models) as string[]) // by insertKey
  return { ...row, models }
}
