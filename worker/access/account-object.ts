import { parseConfig } from '../env.ts'
import { createApiKeyId, createMemberId, createSalt } from '../ids.ts'
import type {
  AccountDescription,
  CreateKeyResult,
  DescribeKeyResult,
  KeySummary,
  MemberSummary,
  RotateKeyResult,
} from './account-contract.ts'
import { AccountKeys } from './account-keys.ts'
import { AccountLedger } from './account-ledger-object.ts'
import { AccountMembers } from './account-members.ts'
import type {
  AccountLimits,
  AccountSettings,
  KeySettings,
  MemberSettings,
} from './account-settings.ts'
import { setModelLimits } from './account-stores.ts'
import type { AccountRow } from './account-tables.ts'
import type { StoredAlert } from './alert.ts'
import { createApiKey } from './api-key.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import type { KeyChanges } from './change-key.ts'
import type { Credit, CreditGrant, GrantResult } from './credit.ts'
import {
  describeAccount,
  describeCredit,
  describeModelLimits,
  summariseKey,
  summariseMember,
} from './describe-account.ts'
import { budgetOf, changeLimits, createMeter, shareOf, snapshotLimits } from './meter.ts'
import { explainUnshardable } from './shardable.ts'

const LISTED_ALERT_COUNT = 100
const LISTED_CREDIT_COUNT = 1_000

/**
 * One account: its keys, limits, budget, open reservations, and the outbox of its ledger. Single
 * writer: what a method changes is one transaction, its own or a shared one (commit-group.ts), that is
 * durable before its answer leaves. The object's name is the account id; that of a shard, which serves a
 * part of an account by leases, has an index too (account-shard.ts).
 */
export class AccountObject extends AccountLedger {
  readonly #keys = new AccountKeys(this.stores, this.books)
  readonly #members = new AccountMembers(this.stores, this.#keys)

  /** Why the account cannot have such settings, as it has more than one shard by them; null: it can. */
  explainUnshardable(settings: AccountSettings): string | null {
    return explainUnshardable(this.stores, settings)
  }

  /** Creates the account or changes its limits and budget; what it has spent stays. */
  async configure(settings: AccountSettings): Promise<AccountDescription> {
    this.#configure(settings)
    await this.shards.recall()
    return this.#read()
  }

  #configure(settings: AccountSettings): void {
    const nowMs = Date.now()
    this.#change(() => {
      const account = this.stores.tables.findAccount()
      const { windowBudgets, modelLimits, alerts, prepaid, tierPercents, shards, ...limits } =
        settings
      if (account === null) this.#insertAccount(limits, nowMs)
      else {
        const heldTokenCount = this.stores.reservations.sum(ACCOUNT_SCOPE).reservedTokenCount
        const now = { nowMs, heldTokenCount }
        this.stores.tables.updateAccountMeter(changeLimits(account, limits, now))
      }
      setModelLimits(this.stores, ACCOUNT_SCOPE, { modelLimits, nowMs })
      this.stores.windows.replace(ACCOUNT_SCOPE, windowBudgets, nowMs)
      this.stores.alerts.setRule(alerts)
      this.stores.credits.setPrepaid(prepaid)
      this.stores.rules.setForAccount({ tierPercents, shards })
    })
  }

  /** Null when the account was never configured. */
  async describeAccount(): Promise<AccountDescription | null> {
    return this.stores.tables.findAccount() === null ? null : this.#read()
  }

  /** Makes a new API key; it holds from the next call on. */
  async createKey(settings: KeySettings): Promise<CreateKeyResult> {
    const account = this.stores.tables.findAccount()
    if (account === null) return { outcome: 'unknown_account' }
    const { key, ...secret } = await createApiKey(
      account.accountId,
      parseConfig(this.env).KEY_CHECKSUM_SECRET,
    )
    const nowMs = Date.now()
    const keyId = createApiKeyId()
    const isCreated = this.#change(() => this.#keys.insert(keyId, secret, { settings, nowMs }))
    if (!isCreated) return { outcome: 'unknown_member' }
    this.chores.armFlush(nowMs)
    return { outcome: 'created', keyId, key, start: secret.start }
  }

  /** Gives a key a new secret; the old one holds for as long as `graceMs`. */
  async rotateKey(keyId: string, graceMs: number): Promise<RotateKeyResult> {
    const { accountId } = this.books.requireAccount()
    const { key, ...secret } = await createApiKey(
      accountId,
      parseConfig(this.env).KEY_CHECKSUM_SECRET,
    )
    const nowMs = Date.now()
    const previousValidUntilMs = nowMs + graceMs
    const isRotated = this.transact(() =>
      this.#keys.rotate(keyId, secret, { previousValidUntilMs, nowMs }),
    )
    if (!isRotated) return { outcome: 'unknown_key' }
    this.chores.armFlush(nowMs)
    await this.shards.recall()
    return { outcome: 'rotated', key, start: secret.start, previousValidUntilMs }
  }

  /** Changes what is named of a key. Null when it cannot be changed: there is none, or it was revoked. */
  async changeKey(keyId: string, changes: KeyChanges): Promise<KeySummary | null> {
    const nowMs = Date.now()
    const isChanged = this.#change(() => this.#keys.change(keyId, { changes, nowMs }))
    await this.shards.recall()
    const key = isChanged ? this.stores.tables.findKeyById(keyId) : null
    if (key === null) return null
    this.chores.armFlush(nowMs)
    return summariseKey(this.stores, key, nowMs)
  }

  /** Refuses the key from the next call on. False when there is no such key. */
  async revokeKey(keyId: string): Promise<boolean> {
    const nowMs = Date.now()
    const isKnown = this.transact(() => this.#keys.revoke(keyId, nowMs))
    this.chores.armFlush(nowMs)
    await this.shards.recall()
    return isKnown
  }

  createMember(settings: MemberSettings): MemberSummary {
    return this.#change(() => this.#members.insert(createMemberId(), settings, Date.now()))
  }

  /** Null when there is no such member (any more). */
  async updateMember(
    memberId: string,
    changes: Partial<MemberSettings>,
  ): Promise<MemberSummary | null> {
    const member = this.#change(() => this.#members.update(memberId, changes, Date.now()))
    await this.shards.recall()
    return member
  }

  /** Refuses the member's keys from the next call on. False when there is no such member. */
  async removeMember(memberId: string): Promise<boolean> {
    const nowMs = Date.now()
    const isKnown = this.transact(() => this.#members.remove(memberId, nowMs))
    this.chores.armFlush(nowMs)
    await this.shards.recall()
    return isKnown
  }

  /** All members, removed ones too, the oldest first. */
  listMembers(): readonly MemberSummary[] {
    const nowMs = Date.now()
    return this.stores.members.list().map((row) => summariseMember(this.stores, row, nowMs))
  }

  /** All keys, revoked ones too, the oldest first. */
  listKeys(): readonly KeySummary[] {
    const nowMs = Date.now()
    return this.stores.tables.listKeys().map((key) => summariseKey(this.stores, key, nowMs))
  }

  describeKey(keyHash: string): DescribeKeyResult {
    const nowMs = Date.now()
    const account = this.stores.tables.findAccount()
    const key = this.books.findValidKey(keyHash, nowMs)
    if (account === null || key === null) return { outcome: 'unknown_key' }
    this.stores.keyDetails.noteUse(key.keyId, nowMs)
    const shared = shareOf(account, this.stores.rules.ofAccount().shards)
    const memberId = this.stores.members.findOwner(key.keyId)
    const member = memberId === null ? null : this.stores.members.find(memberId)
    return {
      outcome: 'key',
      accountId: account.accountId,
      key: summariseKey(this.stores, key, nowMs),
      member: member && summariseMember(this.stores, member, nowMs),
      limits: snapshotLimits([key, ...(member === null ? [] : [member]), shared], nowMs),
      accountBudget: budgetOf(account, this.stores.reservations.sum(ACCOUNT_SCOPE)),
      accountWindows: this.stores.windows.list(ACCOUNT_SCOPE, nowMs),
      accountModelLimits: describeModelLimits(this.stores, ACCOUNT_SCOPE, nowMs),
      credit: describeCredit(this.stores, nowMs),
    }
  }

  /** The newest alerts, delivered or not. */
  listAlerts(): readonly StoredAlert[] {
    return this.stores.alerts.list(LISTED_ALERT_COUNT)
  }

  /** Grants a credit, once by its id. */
  grantCredit(grant: CreditGrant): GrantResult {
    const nowMs = Date.now()
    return this.#change(() => this.books.grantCredit(grant, nowMs))
  }

  /** The newest credits, spent and expired ones too. */
  listCredits(): readonly Credit[] {
    return this.stores.credits.list(LISTED_CREDIT_COUNT)
  }

  /** A transaction after which the account still has to be one that its shards can serve. */
  #change<T>(closure: () => T): T {
    return this.transact(() => {
      const result = closure()
      if (this.stores.rules.ofAccount().shards > 1) {
        this.stores.tables.writeMeters() // what is looked at is what is stored
        const { settings } = this.#describe(this.books.requireAccount(), Date.now())
        const fault = explainUnshardable(this.stores, settings)
        if (fault !== null) throw new Error(`With several shards: ${fault}.`)
      }
      return result
    })
  }

  /** With what its shards have under way. */
  async #read(): Promise<AccountDescription> {
    const states = await this.shards.read()
    const own = this.#describe(this.books.requireAccount(), Date.now())
    const counters = { ...own.counters }
    let { openReservationCount, outboxCount, lastAlarmError } = own
    for (const state of states) {
      if (state === null) {
        lastAlarmError ??= 'A shard does not answer.'
        continue
      }
      openReservationCount += state.openReservationCount
      outboxCount += state.outboxCount
      counters.swept += state.counters.swept
      counters.released += state.counters.released
      counters.clamped += state.counters.clamped
    }
    return { ...own, openReservationCount, outboxCount, lastAlarmError, counters }
  }

  #insertAccount(limits: AccountLimits, nowMs: number): void {
    const meter = createMeter(limits, nowMs)
    this.stores.tables.insertAccount({
      accountId: this.accountId(),
      salt: createSalt(),
      createdAtMs: nowMs,
      ...meter,
    })
  }

  #describe(account: AccountRow, nowMs: number): AccountDescription {
    const { lastError: lastAlarmError } = this.chores
    return describeAccount(this.stores, account, { nowMs, lastAlarmError })
  }
}
