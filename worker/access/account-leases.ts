import type { AccountBooks } from './account-books.ts'
import type { AccountStores } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import { type GrantedLease, hearReport, type LeaseReport, NEW_LEASE, planSlice } from './lease.ts'
import type { LeaseAnswer, LeasedTotal, LeaseRequest, ShardTerms } from './lease-contract.ts'

/** A shard admits by a lease for so long; a call that changes settings may have to wait it out. */
export const LEASE_TERM_MS = 5_000

/**
 * What the account's object leases to its shards and hears from them. What is leased counts as
 * reserved (lease-table.ts), so that it passes every budget like a request. Every method is
 * synchronous and has to run as one transaction.
 */
export class AccountLeases {
  readonly #stores: AccountStores
  readonly #books: AccountBooks

  constructor(stores: AccountStores, books: AccountBooks) {
    this.#stores = stores
    this.#books = books
  }

  /** `isHeard`: this very message was heard before, and refused. */
  lease(request: LeaseRequest, nowMs: number, isHeard = false): LeaseAnswer {
    const { shard, keyHash, lease: report, neededMicroUsd } = request
    const { leases, keyDetails, rules } = this.#stores
    const isNewest = report === undefined || this.#hear(shard, report, nowMs).isNewest
    const { shards } = rules.ofAccount()
    if (shard >= shards) return { outcome: 'moved' }
    const key = this.#books.findValidKey(keyHash, nowMs)
    if (key === null) return { outcome: 'unknown_key' }
    keyDetails.noteUse(key.keyId, nowMs)
    if (report === undefined) return { outcome: 'key', keyId: key.keyId }
    const row = leases.find(shard, key.keyId)
    if (row === null) throw new Error(`The lease of ${key.keyId} is asked for by ${report.keyId}.`)
    if (!isNewest && !(isHeard && row.number === report.number)) return { outcome: 'stale' }

    const { leasedMicroUsd } = row
    const { refusal, roomMicroUsd } = this.#books.findRoom(key, neededMicroUsd, nowMs)
    if (refusal !== null) return { outcome: 'refused', leasedMicroUsd, refusal }
    const leased = leasedMicroUsd + planSlice(neededMicroUsd, { roomMicroUsd, shards })
    if (leased > leasedMicroUsd) leases.put({ ...row, leasedMicroUsd: leased })
    return {
      outcome: 'leased',
      leasedMicroUsd: leased,
      validForMs: Math.min(LEASE_TERM_MS, this.#endOf(key, keyHash) - nowMs),
      terms: this.#composeTerms(key),
    }
  }

  hear(shard: number, reports: readonly LeaseReport[], nowMs: number): readonly LeasedTotal[] {
    return reports.map((report) => {
      const { leasedMicroUsd } = this.#hear(shard, report, nowMs).lease
      return { keyId: report.keyId, leasedMicroUsd }
    })
  }

  #hear(shard: number, report: LeaseReport, nowMs: number) {
    const { tables, leases, members } = this.#stores
    const { keyId } = report
    const key = tables.findKeyById(keyId)
    if (key === null) throw new Error(`Shard ${shard} reports of ${keyId}, which is no key.`)
    const memberId = members.findOwner(keyId)
    const known = leases.find(shard, keyId) ?? { ...NEW_LEASE, shard, keyId, memberId }
    const heard = hearReport(known, report)
    if (!isSame(known, heard.lease)) leases.put({ ...known, ...heard.lease })
    if (heard.spentMicroUsd > 0) this.#books.spendLeased(key, heard.spentMicroUsd, nowMs)
    return heard
  }

  /** When a secret of a key stops holding, by itself. */
  #endOf(key: KeyRow, keyHash: string): number {
    const { keyDetails } = this.#stores
    const secretEndsAtMs = key.keyHash === keyHash ? null : keyDetails.endOfSecret(keyHash)
    return Math.min(
      key.expiresAtMs ?? Number.MAX_SAFE_INTEGER,
      secretEndsAtMs ?? Number.MAX_SAFE_INTEGER,
    )
  }

  #composeTerms({ keyId, models }: KeyRow): ShardTerms {
    const { rules, keyDetails } = this.#stores
    const { accountId, salt, createdAtMs, ...meter } = this.#books.requireAccount()
    const { requestsPerMinute, tokensPerMinute, maxConcurrentRequests } = meter
    return {
      ...{ accountId, salt, createdAtMs, models },
      // What a shard may spend is what is leased to it.
      limits: { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd: null },
      rules: rules.ofAccount(),
      keyRules: rules.ofKey(keyId),
      scopes: keyDetails.find(keyId).scopes,
    }
  }
}

function isSame(a: GrantedLease, b: GrantedLease): boolean {
  return (
    a.number === b.number &&
    a.settledMicroUsd === b.settledMicroUsd &&
    a.returnedMicroUsd === b.returnedMicroUsd
  )
}
