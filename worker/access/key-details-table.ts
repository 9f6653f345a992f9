import type { KeyScope } from './account-settings.ts'

/** A key's last use is written down when the one on record is this old. */
const LAST_USED_STEP_MS = 60_000

/** Of so many keys the details are kept in memory. */
const KEPT_KEY_COUNT = 1_000

interface ReplacedSecret {
  readonly keyHash: string
  readonly keyId: string
  readonly validUntilMs: number
}

interface KeyDetails {
  /** Null: all but those that have to be named. */
  readonly scopes: readonly KeyScope[] | null
  /** To the minute; null: never. */
  readonly lastUsedAtMs: number | null
}

/**
 * What an account object knows of its keys besides their rows: scopes, last use, and secrets that a
 * rotation has replaced and that hold for a while. Every method is synchronous.
 */
export class KeyDetailsTable {
  readonly #sql: SqlStorage
  readonly #details = new Map<string, KeyDetails>()
  /** By hash; null until it is first asked for. They are few. */
  #replaced: Map<string, ReplacedSecret> | null = null

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS key_details (
        key_id TEXT PRIMARY KEY, scopes TEXT, last_used_at_ms INTEGER
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS replaced_secrets (
        key_hash TEXT PRIMARY KEY, key_id TEXT NOT NULL, valid_until_ms INTEGER NOT NULL
      ) WITHOUT ROWID;
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#details.clear()
    this.#replaced = null
  }

  /** A key that was made before there were details has the scopes that need no naming. */
  find(keyId: string): KeyDetails {
    const known = this.#details.get(keyId)
    if (known !== undefined) return known
    if (this.#details.size >= KEPT_KEY_COUNT) this.#details.clear()
    const details = this.#read(keyId)
    this.#details.set(keyId, details)
    return details
  }

  #read(keyId: string): KeyDetails {
    const [row] = this.#sql
      .exec<{ scopes: string | null; lastUsedAtMs: number | null }>(
        'SELECT scopes, last_used_at_ms AS lastUsedAtMs FROM key_details WHERE key_id = ?',
        keyId,
      )
      .toArray()
    if (row === undefined) return { scopes: null, lastUsedAtMs: null }
    const scopes = row.scopes === null ? null : (JSON.parse(row.scopes) as KeyScope[]) // by insert
    return { scopes, lastUsedAtMs: row.lastUsedAtMs }
  }

  insert(keyId: string, scopes: readonly KeyScope[] | null): void {
    this.#sql.exec(
      'INSERT INTO key_details VALUES (?, ?, NULL)',
      keyId,
      scopes === null ? null : JSON.stringify(scopes),
    )
    this.#details.delete(keyId)
  }

  setScopes(keyId: string, scopes: readonly KeyScope[] | null): void {
    this.#sql.exec(
      `INSERT INTO key_details VALUES (?1, ?2, NULL)
       ON CONFLICT (key_id) DO UPDATE SET scopes = ?2`,
      keyId,
      scopes === null ? null : JSON.stringify(scopes),
    )
    this.#details.delete(keyId)
  }

  noteUse(keyId: string, nowMs: number): void {
    const details = this.find(keyId)
    const { lastUsedAtMs } = details
    if (lastUsedAtMs !== null && lastUsedAtMs > nowMs - LAST_USED_STEP_MS) return
    this.#sql.exec(
      `INSERT INTO key_details VALUES (?1, NULL, ?2)
       ON CONFLICT (key_id) DO UPDATE SET last_used_at_ms = ?2`,
      keyId,
      nowMs,
    )
    this.#details.set(keyId, { ...details, lastUsedAtMs: nowMs })
  }

  /**
   * Remembers a secret that another replaces, until it ends; none that was replaced before it
   * outlives it. Forgets those that have ended.
   */
  replaceSecret(
    keyId: string,
    secret: { readonly keyHash: string; readonly validUntilMs: number },
    nowMs: number,
  ): void {
    const { keyHash, validUntilMs } = secret
    this.#replaced = null
    this.#sql.exec(
      'UPDATE replaced_secrets SET valid_until_ms = min(valid_until_ms, ?) WHERE key_id = ?',
      validUntilMs,
      keyId,
    )
    this.#sql.exec('DELETE FROM replaced_secrets WHERE valid_until_ms <= ?', nowMs)
    if (validUntilMs <= nowMs) return
    this.#sql.exec('INSERT INTO replaced_secrets VALUES (?, ?, ?)', keyHash, keyId, validUntilMs)
  }

  /** The key of a replaced secret that still holds; null if there is none. */
  findByReplacedSecret(keyHash: string, nowMs: number): string | null {
    this.#replaced ??= this.#readReplaced()
    const secret = this.#replaced.get(keyHash)
    return secret !== undefined && secret.validUntilMs > nowMs ? secret.keyId : null
  }

  /** When a replaced secret ends; null: it is none. */
  endOfSecret(keyHash: string): number | null {
    this.#replaced ??= this.#readReplaced()
    return this.#replaced.get(keyHash)?.validUntilMs ?? null
  }

  #readReplaced(): Map<string, ReplacedSecret> {
    const query =
      'SELECT key_hash AS keyHash, key_id AS keyId, valid_until_ms AS validUntilMs FROM replaced_secrets'
    const rows = this.#sql.exec(query).toArray() as unknown as ReplacedSecret[] // as the columns are named
    return new Map(rows.map((row) => [row.keyHash, row]))
  }
}
