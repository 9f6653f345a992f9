import type { KeyScope } from './account-settings.ts'

/** A key's last use is written down when the one on record is this old. */
const LAST_USED_STEP_MS = 60_000

interface KeyDetails {
  /** Null: all. */
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

  /** A key that was made before there were details has all scopes. */
  find(keyId: string): KeyDetails {
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
  }

  noteUse(keyId: string, nowMs: number): void {
    this.#sql.exec(
      `INSERT INTO key_details VALUES (?1, NULL, ?2)
       ON CONFLICT (key_id) DO UPDATE SET last_used_at_ms = ?2
       WHERE last_used_at_ms IS NULL OR last_used_at_ms <= ?3`,
      keyId,
      nowMs,
      nowMs - LAST_USED_STEP_MS,
    )
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
    const query = `SELECT key_id AS keyId FROM replaced_secrets
      WHERE key_hash = ? AND valid_until_ms > ?`
    const [row] = this.#sql.exec<{ keyId: string }>(query, keyHash, nowMs).toArray()
    return row?.keyId ?? null
  }
}
