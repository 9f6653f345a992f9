import type { MemberSummary } from './account-contract.ts'
import type { AccountKeys } from './account-keys.ts'
import type { MemberSettings } from './account-settings.ts'
import { type AccountStores, setModelLimits } from './account-stores.ts'
import { summariseMember } from './describe-account.ts'
import type { MemberRow } from './member-table.ts'
import { changeLimits, createMeter } from './meter.ts'

/** How an account's members change. Every method is synchronous and has to run as one transaction. */
export class AccountMembers {
  readonly #stores: AccountStores
  readonly #keys: AccountKeys

  constructor(stores: AccountStores, keys: AccountKeys) {
    this.#stores = stores
    this.#keys = keys
  }

  insert(memberId: string, settings: MemberSettings, nowMs: number): MemberSummary {
    const { name, modelLimits, windowBudgets, ...limits } = settings
    const row = { memberId, name, createdAtMs: nowMs, removedAtMs: null }
    this.#stores.members.insert({ ...row, ...createMeter(limits, nowMs) })
    this.#setLists(memberId, settings, nowMs)
    return summariseMember(this.#stores, this.#require(memberId), nowMs)
  }

  /** What is named changes, and what was spent stays. Null when there is no such member (any more). */
  update(memberId: string, changes: Partial<MemberSettings>, nowMs: number): MemberSummary | null {
    const { members, reservations } = this.#stores
    const before = members.find(memberId)
    if (before === null || before.removedAtMs !== null) return null
    const { settings: current } = summariseMember(this.#stores, before, nowMs)
    const settings = { ...current, ...changes }
    const { name, modelLimits, windowBudgets, ...limits } = settings
    const heldTokenCount = reservations.sum(memberId).reservedTokenCount
    const changed = changeLimits(before, limits, { nowMs, heldTokenCount })
    members.update(memberId, { ...changed, name })
    this.#setLists(memberId, settings, nowMs)
    return summariseMember(this.#stores, this.#require(memberId), nowMs)
  }

  /** Revokes the member's keys too. False when there is no such member. */
  remove(memberId: string, nowMs: number): boolean {
    const { members } = this.#stores
    const before = members.find(memberId)
    if (before === null) return false
    if (before.removedAtMs !== null) return true
    members.update(memberId, { ...before, removedAtMs: nowMs })
    for (const keyId of members.listKeyIds(memberId)) this.#keys.revoke(keyId, nowMs)
    return true
  }

  #setLists(memberId: string, { modelLimits, windowBudgets }: MemberSettings, nowMs: number): void {
    setModelLimits(this.#stores, memberId, { modelLimits, nowMs })
    this.#stores.windows.replace(memberId, windowBudgets, nowMs)
  }

  #require(memberId: string): MemberRow {
    const member = this.#stores.members.find(memberId)
    if (member === null) throw new Error(`There is no member ${memberId}.`)
    return member
  }
}
