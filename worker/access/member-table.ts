import type { Meter, RateMeter } from './meter.ts'
import {
  METER_ASSIGNMENTS,
  METER_COLUMNS,
  METER_FIELDS,
  meterValues,
  placeholders,
} from './meter-columns.ts'

/** A member as it is stored. */
export type MemberRow = Meter & {
  readonly memberId: string
  readonly name: string
  readonly createdAtMs: number
  /** Null: it is one. */
  readonly removedAtMs: number | null
}

/** Of so many members, and so many keys, what is stored is kept in memory. */
const KEPT_COUNT = 1_000

const FIELDS = `
  member_id AS memberId, name, created_at_ms AS createdAtMs, removed_at_ms AS removedAtMs,
  ${METER_FIELDS}`

/** The members of an account object, and whose each key is. Every method is synchronous. */
export class MemberTable {
  readonly #sql: SqlStorage
  readonly #members = new Map<string, MemberRow>()
  /** By key; null: nobody's. */
  readonly #owners = new Map<string, string | null>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  create(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS members (
        member_id TEXT PRIMARY KEY, name TEXT NOT NULL, created_at_ms INTEGER NOT NULL,
        removed_at_ms INTEGER, ${METER_COLUMNS}
      ) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS member_keys (
        key_id TEXT PRIMARY KEY, member_id TEXT NOT NULL
      ) WITHOUT ROWID;
    `)
  }

  /** Reads all anew: what is in memory may never have been committed. */
  forget(): void {
    this.#members.clear()
    this.#owners.clear()
  }

  find(memberId: string): MemberRow | null {
    const known = this.#members.get(memberId)
    if (known !== undefined) return known
    const [row] = this.#read('WHERE member_id = ?', memberId)
    if (row === undefined) return null
    if (this.#members.size >= KEPT_COUNT) this.#members.clear()
    this.#members.set(memberId, row)
    return row
  }

  /** The oldest first, removed ones too. */
  list(): readonly MemberRow[] {
    return this.#read('ORDER BY created_at_ms, member_id')
  }

  insert(member: MemberRow): void {
    this.#sql.exec(
      `INSERT INTO members VALUES (?, ?, ?, ?, ${placeholders(8)})`,
      member.memberId,
      member.name,
      member.createdAtMs,
      member.removedAtMs,
      ...meterValues(member),
    )
  }

  /** Throws where there is no such member. */
  update(memberId: string, changes: Partial<MemberRow> & RateMeter): void {
    const before = this.find(memberId)
    if (before === null) throw new Error(`There is no member ${memberId}.`)
    const member = { ...before, ...changes }
    this.#members.set(memberId, member)
    this.#sql.exec(
      `UPDATE members SET name = ?, removed_at_ms = ?, ${METER_ASSIGNMENTS} WHERE member_id = ?`,
      member.name,
      member.removedAtMs,
      ...meterValues(member),
      memberId,
    )
  }

  /** Whose key it is, for ever. */
  insertKey(keyId: string, memberId: string): void {
    this.#owners.delete(keyId)
    this.#sql.exec('INSERT INTO member_keys VALUES (?, ?)', keyId, memberId)
  }

  /** The member whose key it is; null: it is the account's own. */
  findOwner(keyId: string): string | null {
    const known = this.#owners.get(keyId)
    if (known !== undefined) return known
    if (this.#owners.size >= KEPT_COUNT) this.#owners.clear()
    const query = 'SELECT member_id AS memberId FROM member_keys WHERE key_id = ?'
    const [row] = this.#sql.exec<{ memberId: string }>(query, keyId).toArray()
    const memberId = row?.memberId ?? null
    this.#owners.set(keyId, memberId)
    return memberId
  }

  listKeyIds(memberId: string): string[] {
    const query = 'SELECT key_id AS keyId FROM member_keys WHERE member_id = ?'
    const rows = this.#sql.exec<{ keyId: string }>(query, memberId).toArray()
    return rows.map(({ keyId }) => keyId)
  }

  #read(clause: string, ...bindings: SqlStorageValue[]): MemberRow[] {
    const query = `SELECT ${FIELDS} FROM members ${clause}`
    return this.#sql.exec(query, ...bindings).toArray() as unknown as MemberRow[] // as FIELDS names them
  }
}
