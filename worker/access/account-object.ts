import { DurableObject } from 'cloudflare:workers'
import { type Config, parseConfig, type StorageBindings } from '../env.ts'
import { createApiKeyId, createMemberId, createSalt } from '../ids.ts'
import type { SettledMonth } from '../ledger/statement.ts'
import { AccountAlarm } from './account-alarm.ts'
import { AccountBooks } from './account-books.ts'
import { AccountChores } from './account-chores.ts'
import type {
  AccountDescription,
  AdmitRequest,
  AdmitResult,
  CreateKeyResult,
  DescribeKeyResult,
  KeySummary,
  MemberSummary,
  MonthReading,
  Reroute,
  RotateKeyResult,
  Settlement,
  SettleResult,
} from './account-contract.ts'
import { AccountKeys } from './account-keys.ts'
import { AccountMembers } from './account-members.ts'
import type {
  AccountLimits,
  AccountSettings,
  KeySettings,
  MemberSettings,
} from './account-settings.ts'
import {
  type AccountStores,
  createStores,
  forgetStores,
  openStores,
  setModelLimits,
} from './account-stores.ts'
import type { AccountRow } from './account-tables.ts'
import type { StoredAlert } from './alert.ts'
import { createApiKey } from './api-key.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import type { KeyChanges } from './change-key.ts'
import { CommitGroup } from './commit-group.ts'
import type { Credit, CreditGrant, GrantResult } from './credit.ts'
import {
  describeAccount,
  describeCredit,
  describeModelLimits,
  summariseKey,
  summariseMember,
} from './describe-account.ts'
import { budgetOf, changeLimits, createMeter, snapshotLimits } from './meter.ts'

const LISTED_ALERT_COUNT = 100
/** Of so many open requests each may wait for others, to share a commit with them. */
const BUSY_COUNT = 4
const LISTED_CREDIT_COUNT = 1_000

/**
 * One account: its keys, limits, budget, open reservations, and the outbox of its ledger. Single
 * writer: what a method changes is one transaction, its own or a shared one (commit-group.ts), that is
 * durable before its answer leaves. The object's name is the account id.
 */
export class AccountObject extends DurableObject<StorageBindings> {
  readonly #stores: AccountStores
  readonly #books: AccountBooks
  readonly #keys: AccountKeys
  readonly #members: AccountMembers
  readonly #alarm: AccountAlarm
  readonly #chores: AccountChores
  readonly #commits: CommitGroup

  constructor(ctx: DurableObjectState, env: StorageBindings) {
    super(ctx, env)
    this.#stores = openStores(ctx.storage.sql)
    this.#books = new AccountBooks({ ...this.#stores, payees: () => this.#config.PAYEES })
    this.#keys = new AccountKeys(this.#stores, this.#books)
    this.#members = new AccountMembers(this.#stores, this.#keys)
    this.#alarm = new AccountAlarm(ctx.storage)
    this.#chores = new AccountChores({
      stores: this.#stores,
      books: this.#books,
      alarm: this.#alarm,
      database: env.DB,
      config: () => this.#config,
      transact: (closure) => this.#transact(closure),
    })
    this.#commits = new CommitGroup({
      transact: (closure) => this.#transact(closure),
      isBusy: () => this.#stores.reservations.sum(ACCOUNT_SCOPE).openCount >= BUSY_COUNT,
    })
    void ctx.blockConcurrencyWhile(async () => {
      createStores(this.#stores)
      // The platform gives up an alarm that failed too often.
      if (!(await this.#alarm.restore())) this.#chores.armForPending()
    })
  }

  /** Checks key, model, budgets, concurrency and rates, and reserves the worst case. */
  async admit(request: AdmitRequest): Promise<AdmitResult> {
    const nowMs = Date.now()
    const expiresAtMs = nowMs + this.#config.RESERVATION_TTL_MS
    const admit = () => this.#books.admit(request, nowMs, expiresAtMs)
    const result = await this.#commits.run(admit, nowMs)
    if (result.outcome === 'admitted') this.#alarm.arm(expiresAtMs)
    if (result.outcome === 'cached') this.#chores.armFlush(nowMs)
    return result
  }

  /** Prices, splits and records a request that ended, and frees its reservation. */
  async settle(settlement: Settlement): Promise<SettleResult> {
    const nowMs = Date.now()
    const result = await this.#commits.run(() => this.#books.settle(settlement, nowMs), nowMs)
    if (result.outcome === 'settled') this.#chores.armFlush(nowMs)
    return result
  }

  /**
   * Says that a reservation's owner is still at work, so that the sweep leaves it alone for another
   * term. False when it is settled already, or was never made.
   */
  renew(requestId: string): boolean {
    return this.#chores.postpone(requestId, 0)
  }

  /** Moves a reservation to another backend and its price, for another term. False as `renew`. */
  reroute(requestId: string, to: Reroute): boolean {
    return this.#transact(
      () => this.#books.reroute(requestId, to) && this.#chores.postpone(requestId, 0),
    )
  }

  /** Creates the account or changes its limits and budget; what it has spent stays. */
  configure(settings: AccountSettings): AccountDescription {
    const nowMs = Date.now()
    return this.#transact(() => {
      const account = this.#stores.tables.findAccount()
      const { windowBudgets, modelLimits, alerts, prepaid, tierPercents, ...limits } = settings
      if (account === null) this.#insertAccount(limits, nowMs)
      else {
        const heldTokenCount = this.#stores.reservations.sum(ACCOUNT_SCOPE).reservedTokenCount
        const now = { nowMs, heldTokenCount }
        this.#stores.tables.updateAccountMeter(changeLimits(account, limits, now))
      }
      setModelLimits(this.#stores, ACCOUNT_SCOPE, { modelLimits, nowMs })
      this.#stores.windows.replace(ACCOUNT_SCOPE, windowBudgets, nowMs)
      this.#stores.alerts.setRule(alerts)
      this.#stores.credits.setPrepaid(prepaid)
      this.#stores.rules.setForAccount({ tierPercents })
      return this.#describe(this.#books.requireAccount(), nowMs)
    })
  }

  /** Null when the account was never configured. */
  describeAccount(): AccountDescription | null {
    const account = this.#stores.tables.findAccount()
    return account === null ? null : this.#describe(account, Date.now())
  }

  /** Makes a new API key; it holds from the next call on. */
  async createKey(settings: KeySettings): Promise<CreateKeyResult> {
    const account = this.#stores.tables.findAccount()
    if (account === null) return { outcome: 'unknown_account' }
    const { key, ...secret } = await createApiKey(
      account.accountId,
      this.#config.KEY_CHECKSUM_SECRET,
    )
    const nowMs = Date.now()
    const keyId = createApiKeyId()
    const isCreated = this.#transact(() => this.#keys.insert(keyId, secret, { settings, nowMs }))
    if (!isCreated) return { outcome: 'unknown_member' }
    this.#chores.armFlush(nowMs)
    return { outcome: 'created', keyId, key, start: secret.start }
  }

  /** Gives a key a new secret; the old one holds for as long as `graceMs`. */
  async rotateKey(keyId: string, graceMs: number): Promise<RotateKeyResult> {
    const { accountId } = this.#books.requireAccount()
    const { key, ...secret } = await createApiKey(accountId, this.#config.KEY_CHECKSUM_SECRET)
    const nowMs = Date.now()
    const previousValidUntilMs = nowMs + graceMs
    const isRotated = this.#transact(() =>
      this.#keys.rotate(keyId, secret, { previousValidUntilMs, nowMs }),
    )
    if (!isRotated) return { outcome: 'unknown_key' }
    this.#chores.armFlush(nowMs)
    return { outcome: 'rotated', key, start: secret.start, previousValidUntilMs }
  }

  /** Changes what is named of a key. Null when it cannot be changed: there is none, or it was revoked. */
  changeKey(keyId: string, changes: KeyChanges): KeySummary | null {
    const nowMs = Date.now()
    const isChanged = this.#transact(() => this.#keys.change(keyId, { changes, nowMs }))
    const key = isChanged ? this.#stores.tables.findKeyById(keyId) : null
    if (key === null) return null
    this.#chores.armFlush(nowMs)
    return summariseKey(this.#stores, key, nowMs)
  }

  /** Refuses the key from the next call on. False when there is no such key. */
  revokeKey(keyId: string): boolean {
    const nowMs = Date.now()
    const isKnown = this.#transact(() => this.#keys.revoke(keyId, nowMs))
    this.#chores.armFlush(nowMs)
    return isKnown
  }

  createMember(settings: MemberSettings): MemberSummary {
    return this.#transact(() => this.#members.insert(createMemberId(), settings, Date.now()))
  }

  /** Null when there is no such member (any more). */
  updateMember(memberId: string, changes: Partial<MemberSettings>): MemberSummary | null {
    return this.#transact(() => this.#members.update(memberId, changes, Date.now()))
  }

  /** Refuses the member's keys from the next call on. False when there is no such member. */
  removeMember(memberId: string): boolean {
    const nowMs = Date.now()
    const isKnown = this.#transact(() => this.#members.remove(memberId, nowMs))
    this.#chores.armFlush(nowMs)
    return isKnown
  }

  /** All members, removed ones too, the oldest first. */
  listMembers(): readonly MemberSummary[] {
    const nowMs = Date.now()
    return this.#stores.members.list().map((row) => summariseMember(this.#stores, row, nowMs))
  }

  /** All keys, revoked ones too, the oldest first. */
  listKeys(): readonly KeySummary[] {
    const nowMs = Date.now()
    return this.#stores.tables.listKeys().map((key) => summariseKey(this.#stores, key, nowMs))
  }

  describeKey(keyHash: string): DescribeKeyResult {
    const nowMs = Date.now()
    const account = this.#stores.tables.findAccount()
    const key = this.#books.findValidKey(keyHash, nowMs)
    if (account === null || key === null) return { outcome: 'unknown_key' }
    this.#stores.keyDetails.noteUse(key.keyId, nowMs)
    const memberId = this.#stores.members.findOwner(key.keyId)
    const member = memberId === null ? null : this.#stores.members.find(memberId)
    return {
      outcome: 'key',
      accountId: account.accountId,
      key: summariseKey(this.#stores, key, nowMs),
      member: member && summariseMember(this.#stores, member, nowMs),
      limits: snapshotLimits([key, ...(member === null ? [] : [member]), account], nowMs),
      accountBudget: budgetOf(account, this.#stores.reservations.sum(ACCOUNT_SCOPE)),
      accountWindows: this.#stores.windows.list(ACCOUNT_SCOPE, nowMs),
      accountModelLimits: describeModelLimits(this.#stores, ACCOUNT_SCOPE, nowMs),
      credit: describeCredit(this.#stores, nowMs),
    }
  }

  /** Runs at least once and may repeat. Never throws (account-chores.ts). */
  override async alarm(): Promise<void> {
    this.#alarm.noteFired()
    await this.#chores.run()
    this.#chores.armForPending()
  }

  /** Brings to D1 what was settled until now, for whoever is about to read it there. False: D1 fails. */
  flushLedger(): Promise<boolean> {
    return this.#chores.flush()
  }

  /** The newest alerts, delivered or not. */
  listAlerts(): readonly StoredAlert[] {
    return this.#stores.alerts.list(LISTED_ALERT_COUNT)
  }

  /** Grants a credit, once by its id. */
  grantCredit(grant: CreditGrant): GrantResult {
    const nowMs = Date.now()
    return this.#transact(() => this.#books.grantCredit(grant, nowMs))
  }

  /** The newest credits, spent and expired ones too. */
  listCredits(): readonly Credit[] {
    return this.#stores.credits.list(LISTED_CREDIT_COUNT)
  }

  /** What was settled in a UTC month, which is sealed if it is over. */
  readMonth(month: string): MonthReading {
    const nowMs = Date.now()
    return this.#transact(() => this.#books.readMonth(month, nowMs))
  }

  /** The months with settlements, the newest first. */
  listMonths(): readonly SettledMonth[] {
    return this.#stores.months.list()
  }

  get #config(): Config {
    return parseConfig(this.env)
  }

  #transact<T>(closure: () => T): T {
    try {
      return this.ctx.storage.transactionSync(() => {
        const result = closure()
        this.#stores.tables.writeMeters()
        this.#stores.months.write()
        return result
      })
    } catch (error) {
      forgetStores(this.#stores)
      throw error
    }
  }

  #insertAccount(limits: AccountLimits, nowMs: number): void {
    const accountId = this.ctx.id.name
    if (accountId === undefined) throw new Error('An account object is reached by its name.')
    const meter = createMeter(limits, nowMs)
    this.#stores.tables.insertAccount({
      accountId,
      salt: createSalt(),
      createdAtMs: nowMs,
      ...meter,
    })
  }

  #describe(account: AccountRow, nowMs: number): AccountDescription {
    const { lastError: lastAlarmError } = this.#chores
    return describeAccount(this.#stores, account, { nowMs, lastAlarmError })
  }
}
