import type { AccountBooks } from './account-books.ts'
import type { KeySettings } from './account-settings.ts'
import { type AccountStores, setModelLimits } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import { changeKey, type KeyChanges } from './change-key.ts'
import { createMeter } from './meter.ts'

/** What is stored of a secret: never the key itself. */
type StoredSecret = Pick<KeyRow, 'keyHash' | 'start'>

/**
 * How an account's keys change; each change is mirrored to the ledger. Every method is synchronous
 * and has to run as one transaction.
 */
export class AccountKeys {
  readonly #stores: AccountStores
  readonly #books: AccountBooks

  constructor(stores: AccountStores, books: AccountBooks) {
    this.#stores = stores
    this.#books = books
  }

  /** False when it is to be of a member that is none (any more). */
  insert(
    keyId: string,
    secret: StoredSecret,
    { settings, nowMs }: { readonly settings: KeySettings; readonly nowMs: number },
  ): boolean {
    const { memberId } = settings
    if (memberId !== null && this.#stores.members.find(memberId)?.removedAtMs !== null) return false
    const { tables, keyDetails, windows, rules } = this.#stores
    const {
      name,
      expiresAtMs,
      models,
      scopes,
      windowBudgets,
      modelLimits,
      memberId: _,
      tier,
      ...limits
    } = settings
    const row = { keyId, ...secret, name, createdAtMs: nowMs, expiresAtMs, models }
    tables.insertKey({ ...row, revokedAtMs: null, ...createMeter(limits, nowMs) })
    keyDetails.insert(keyId, scopes)
    rules.setForKey(keyId, { tier })
    windows.replace(keyId, windowBudgets, nowMs)
    setModelLimits(this.#stores, keyId, { modelLimits, nowMs })
    if (memberId !== null) this.#stores.members.insertKey(keyId, memberId)
    this.#mirror(keyId)
    return true
  }

  /** The secret it had holds for as long as `previousValidUntilMs`. False when it cannot be rotated. */
  rotate(
    keyId: string,
    secret: StoredSecret,
    { previousValidUntilMs, nowMs }: RotationTimes,
  ): boolean {
    const { tables, keyDetails } = this.#stores
    const before = tables.findKeyById(keyId)
    if (before === null || before.revokedAtMs !== null) return false
    const replaced = { keyHash: before.keyHash, validUntilMs: previousValidUntilMs }
    keyDetails.replaceSecret(keyId, replaced, nowMs)
    tables.replaceKeySecret(keyId, secret)
    this.#mirror(keyId)
    return true
  }

  /** False when it cannot be changed: there is none, or it was revoked. */
  change(
    keyId: string,
    { changes, nowMs }: { readonly changes: KeyChanges; readonly nowMs: number },
  ): boolean {
    const key = this.#stores.tables.findKeyById(keyId)
    if (key === null || key.revokedAtMs !== null) return false
    changeKey(this.#stores, key, { changes, nowMs })
    this.#mirror(keyId)
    return true
  }

  /** False when there is no such key. */
  revoke(keyId: string, nowMs: number): boolean {
    const { tables } = this.#stores
    const key = tables.findKeyById(keyId)
    if (key === null) return false
    if (key.revokedAtMs !== null) return true
    tables.revokeKey(keyId, nowMs)
    this.#mirror(keyId)
    return true
  }

  #mirror(keyId: string): void {
    const key = this.#stores.tables.findKeyById(keyId)
    if (key === null) throw new Error(`There is no key ${keyId}.`)
    const { accountId } = this.#books.requireAccount()
    const { name, start, createdAtMs, revokedAtMs } = key
    const memberId = this.#stores.members.findOwner(keyId)
    const mirror = { id: keyId, accountId, memberId, name, start, createdAtMs, revokedAtMs }
    this.#stores.tables.appendOutbox({ kind: 'key', key: mirror })
  }
}

interface RotationTimes {
  readonly previousValidUntilMs: number
  readonly nowMs: number
}
