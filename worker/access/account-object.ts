import { DurableObject } from 'cloudflare:workers'
import { type Config, parseConfig, type StorageBindings } from '../env.ts'
import { createApiKeyId, createSalt } from '../ids.ts'
import { writeLedger } from '../ledger/usage-store.ts'
import { AccountBooks } from './account-books.ts'
import type {
  AccountDescription,
  AdmitRequest,
  AdmitResult,
  CreateKeyResult,
  DescribeKeyResult,
  KeySummary,
  Reroute,
  RotateKeyResult,
  Settlement,
  SettleResult,
} from './account-contract.ts'
import type { AccountLimits, AccountSettings, KeySettings } from './account-settings.ts'
import { type AccountRow, AccountTables, type KeyRow } from './account-tables.ts'
import { planRetry, type StoredAlert } from './alert.ts'
import { deliverAlert, deriveAlertSecret } from './alert-client.ts'
import { AlertTable } from './alert-table.ts'
import { createApiKey } from './api-key.ts'
import { ACCOUNT_SCOPE, BudgetWindowTable } from './budget-window-table.ts'
import { planBackoffMs } from './flush-backoff.ts'
import { IDEMPOTENCY_KEPT_MS } from './idempotency.ts'
import { IdempotencyTable } from './idempotency-table.ts'
import { KeyDetailsTable } from './key-details-table.ts'
import { budgetOf, changeLimits, createMeter, snapshotLimits } from './meter.ts'
import { fetchRequestReport } from './report-client.ts'
import type { Reservation } from './settlement.ts'
import { planSweep, type SweepPlan } from './sweep.ts'
import { explainWebhookUrl } from './webhook-url.ts'

/** Settlements of this long share one flush. */
const FLUSH_DELAY_MS = 50
const FLUSH_BATCH_SIZE = 200
const LISTED_ALERT_COUNT = 100
/** Backends asked at once: as many connections as may wait for headers. */
const SWEEP_BATCH_SIZE = 6
const ALERT_BATCH_SIZE = 6
/** How long a second settlement is recognised as one. */
const SETTLED_KEPT_MS = 24 * 3_600_000
/** What is old is forgotten together, not one an alarm. */
const PURGE_INTERVAL_MS = 3_600_000
const SETTLED_PURGE_SIZE = 1_000

/**
 * One account: its keys, limits, budget, open reservations, and the outbox of its ledger. Single
 * writer: each method is one synchronous transaction that is durable before its answer leaves. The
 * object's name is the account id.
 */
export class AccountObject extends DurableObject<StorageBindings> {
  readonly #tables: AccountTables
  readonly #idempotency: IdempotencyTable
  readonly #windows: BudgetWindowTable
  readonly #alerts: AlertTable
  readonly #keyDetails: KeyDetailsTable
  readonly #books: AccountBooks
  /** When the alarm will fire; null when none is set. */
  #alarmAtMs: number | null = null
  #flushFailureCount = 0
  #flushNotBeforeMs = 0
  #lastAlarmError: string | null = null

  constructor(ctx: DurableObjectState, env: StorageBindings) {
    super(ctx, env)
    this.#tables = new AccountTables(ctx.storage.sql)
    this.#idempotency = new IdempotencyTable(ctx.storage.sql)
    this.#windows = new BudgetWindowTable(ctx.storage.sql)
    this.#alerts = new AlertTable(ctx.storage.sql)
    this.#keyDetails = new KeyDetailsTable(ctx.storage.sql)
    this.#books = new AccountBooks({
      tables: this.#tables,
      idempotency: this.#idempotency,
      windows: this.#windows,
      alerts: this.#alerts,
      keyDetails: this.#keyDetails,
      payees: () => this.#config.PAYEES,
    })
    void ctx.blockConcurrencyWhile(async () => {
      this.#tables.create()
      this.#idempotency.create()
      this.#windows.create()
      this.#alerts.create()
      this.#keyDetails.create()
      this.#alarmAtMs = await ctx.storage.getAlarm()
      // The platform gives up an alarm that failed too often.
      if (this.#alarmAtMs === null) this.#armForPending()
    })
  }

  /** Checks key, model, budgets, concurrency and rates, and reserves the worst case. */
  admit(request: AdmitRequest): AdmitResult {
    const nowMs = Date.now()
    const expiresAtMs = nowMs + this.#config.RESERVATION_TTL_MS
    const result = this.#transact(() => this.#books.admit(request, nowMs, expiresAtMs))
    if (result.outcome === 'admitted') this.#armAlarm(expiresAtMs)
    return result
  }

  /** Prices, splits and records a request that ended, and frees its reservation. */
  settle(settlement: Settlement): SettleResult {
    const nowMs = Date.now()
    const result = this.#transact(() => this.#books.settle(settlement, nowMs))
    if (result.outcome === 'settled') this.#armFlush(nowMs)
    return result
  }

  /**
   * Says that a reservation's owner is still at work, so that the sweep leaves it alone for another
   * term. False when it is settled already, or was never made.
   */
  renew(requestId: string): boolean {
    return this.#postpone(requestId, 0)
  }

  /** Moves a reservation to another backend and its price, for another term. False as `renew`. */
  reroute(requestId: string, to: Reroute): boolean {
    return this.#transact(() => this.#tables.reroute(requestId, to) && this.#postpone(requestId, 0))
  }

  /** Creates the account or changes its limits and budget; what it has spent stays. */
  configure(settings: AccountSettings): AccountDescription {
    const nowMs = Date.now()
    return this.#transact(() => {
      const account = this.#tables.findAccount()
      const { windowBudgets, alerts, ...limits } = settings
      if (account === null) this.#insertAccount(limits, nowMs)
      else this.#tables.updateAccountMeter(changeLimits(account, limits, nowMs))
      this.#windows.replace(ACCOUNT_SCOPE, windowBudgets, nowMs)
      this.#alerts.setRule(alerts)
      return this.#describe(this.#books.requireAccount(), nowMs)
    })
  }

  /** Null when the account was never configured. */
  describeAccount(): AccountDescription | null {
    const account = this.#tables.findAccount()
    return account === null ? null : this.#describe(account, Date.now())
  }

  /** Makes a new API key; it holds from the next call on. */
  async createKey(settings: KeySettings): Promise<CreateKeyResult> {
    const account = this.#tables.findAccount()
    if (account === null) return { outcome: 'unknown_account' }
    const { key, keyHash, start } = await createApiKey(
      account.accountId,
      this.#config.KEY_CHECKSUM_SECRET,
    )
    const nowMs = Date.now()
    const { name, expiresAtMs, models, scopes, windowBudgets, ...limits } = settings
    const keyId = createApiKeyId()
    const row = { keyId, keyHash, name, start, createdAtMs: nowMs, expiresAtMs, models }
    this.#transact(() => {
      this.#tables.insertKey({ ...row, revokedAtMs: null, ...createMeter(limits, nowMs) })
      this.#keyDetails.insert(keyId, scopes)
      this.#windows.replace(keyId, windowBudgets, nowMs)
      this.#mirrorKey(account.accountId, keyId)
    })
    this.#armFlush(nowMs)
    return { outcome: 'created', keyId, key, start }
  }

  /** Gives a key a new secret; the old one holds for as long as `graceMs`. */
  async rotateKey(keyId: string, graceMs: number): Promise<RotateKeyResult> {
    const { accountId } = this.#books.requireAccount()
    const { key, ...secret } = await createApiKey(accountId, this.#config.KEY_CHECKSUM_SECRET)
    const nowMs = Date.now()
    const previousValidUntilMs = nowMs + graceMs
    const isRotated = this.#transact(() => {
      const before = this.#tables.findKeyById(keyId)
      if (before === null || before.revokedAtMs !== null) return false
      const replaced = { keyHash: before.keyHash, validUntilMs: previousValidUntilMs }
      this.#keyDetails.replaceSecret(keyId, replaced, nowMs)
      this.#tables.replaceKeySecret(keyId, secret)
      this.#mirrorKey(accountId, keyId)
      return true
    })
    if (!isRotated) return { outcome: 'unknown_key' }
    this.#armFlush(nowMs)
    return { outcome: 'rotated', key, start: secret.start, previousValidUntilMs }
  }

  /** Refuses the key from the next call on. False when there is no such key. */
  revokeKey(keyId: string): boolean {
    const nowMs = Date.now()
    const isKnown = this.#transact(() => {
      const key = this.#tables.findKeyById(keyId)
      if (key === null) return false
      if (key.revokedAtMs !== null) return true
      this.#tables.revokeKey(keyId, nowMs)
      this.#mirrorKey(this.#books.requireAccount().accountId, keyId)
      return true
    })
    this.#armFlush(nowMs)
    return isKnown
  }

  /** All keys, revoked ones too, the oldest first. */
  listKeys(): readonly KeySummary[] {
    const nowMs = Date.now()
    return this.#tables.listKeys().map((key) => this.#summarise(key, nowMs))
  }

  describeKey(keyHash: string): DescribeKeyResult {
    const nowMs = Date.now()
    const account = this.#tables.findAccount()
    const key = this.#books.findValidKey(keyHash, nowMs)
    if (account === null || key === null) return { outcome: 'unknown_key' }
    this.#keyDetails.noteUse(key.keyId, nowMs)
    return {
      outcome: 'key',
      accountId: account.accountId,
      key: this.#summarise(key, nowMs),
      limits: snapshotLimits(account, key, nowMs),
      accountBudget: budgetOf(account, this.#tables.sumReservations(null)),
      accountWindows: this.#windows.list(ACCOUNT_SCOPE, nowMs),
    }
  }

  /**
   * Moves the outbox to D1, asks after expired reservations, delivers alerts, forgets old settlements. Never throws,
   * because the platform gives up an alarm that fails too often; runs at least once and may repeat.
   */
  override async alarm(): Promise<void> {
    this.#alarmAtMs = null
    if (Date.now() >= this.#flushNotBeforeMs) await this.#flush()
    const expired = this.#tables.listExpired(Date.now(), SWEEP_BATCH_SIZE)
    await Promise.all(expired.map((reservation) => this.#sweep(reservation)))
    const alerts = this.#alerts.listDue(Date.now(), ALERT_BATCH_SIZE)
    await Promise.all(alerts.map((alert) => this.#deliver(alert)))
    this.#tables.deleteSettledBefore(Date.now() - SETTLED_KEPT_MS, SETTLED_PURGE_SIZE)
    this.#idempotency.deleteClaimedBefore(Date.now() - IDEMPOTENCY_KEPT_MS)
    this.#armForPending()
  }

  async #flush(): Promise<void> {
    const { entries, lastSequence } = this.#tables.readOutbox(FLUSH_BATCH_SIZE)
    try {
      await writeLedger(this.env.DB, entries)
    } catch (error) {
      this.#lastAlarmError = String(error)
      this.#flushFailureCount += 1
      this.#flushNotBeforeMs = Date.now() + planBackoffMs(this.#flushFailureCount, Math.random())
      return
    }
    this.#tables.deleteOutboxThrough(lastSequence)
    this.#lastAlarmError = null
    this.#flushFailureCount = 0
  }

  /** At least once: an alert that was taken while the object died is sent again. */
  async #deliver(alert: StoredAlert): Promise<void> {
    const { accountId } = this.#books.requireAccount()
    const { WEBHOOK_LOOPBACK, KEY_CHECKSUM_SECRET } = this.#config
    const url = this.#alerts.findRule()?.url
    const mayCall =
      url !== undefined && explainWebhookUrl(url, { allowsLoopback: WEBHOOK_LOOPBACK }) === null
    const isTaken =
      mayCall &&
      (await deliverAlert(alert, {
        accountId,
        url,
        secret: await deriveAlertSecret(accountId, KEY_CHECKSUM_SECRET),
        nowMs: Date.now(),
      }))
    const nowMs = Date.now()
    const dueAtMs = isTaken || !mayCall ? null : planRetry(alert.attemptCount + 1, nowMs)
    this.#alerts.noteAttempt(alert.alertId, { dueAtMs, deliveredAtMs: isTaken ? nowMs : null })
  }

  /** The newest alerts, delivered or not. */
  listAlerts(): readonly StoredAlert[] {
    return this.#alerts.list(LISTED_ALERT_COUNT)
  }

  /** The owner may settle at any moment while the backend is asked; whoever is first counts. */
  async #sweep(reservation: Reservation): Promise<void> {
    const { requestId, backendId, sweepFailureCount } = reservation
    const backend = this.#config.BACKENDS.find(({ id }) => id === backendId)
    const answer =
      backend === undefined
        ? ({ outcome: 'unknown' } as const)
        : await fetchRequestReport(backend, requestId)
    try {
      this.#carryOut(planSweep(reservation, answer), reservation)
    } catch (error) {
      // One reservation that cannot be settled must not hold up the others, nor the outbox.
      this.#lastAlarmError = String(error)
      this.#postpone(requestId, sweepFailureCount + 1)
    }
  }

  #carryOut(plan: SweepPlan, { requestId, sweepFailureCount }: Reservation): void {
    switch (plan.action) {
      case 'extend':
        this.#postpone(requestId, 0)
        return
      case 'retry':
        this.#postpone(requestId, sweepFailureCount + 1)
        return
      case 'settle':
      case 'release':
        this.#transact(() => {
          const { outcome } = this.#books.settle(plan.settlement, Date.now())
          if (outcome === 'settled')
            this.#tables.incrementCounter(plan.action === 'settle' ? 'swept' : 'released')
        })
    }
  }

  /** False when there is no such reservation. */
  #postpone(requestId: string, sweepFailureCount: number): boolean {
    const expiresAtMs = Date.now() + this.#config.RESERVATION_TTL_MS
    return this.#tables.postponeExpiry(requestId, expiresAtMs, sweepFailureCount)
  }

  get #config(): Config {
    return parseConfig(this.env)
  }

  #transact<T>(closure: () => T): T {
    return this.ctx.storage.transactionSync(closure)
  }

  /** Sets the alarm, unless it fires sooner anyway. */
  #armAlarm(atMs: number): void {
    if (this.#alarmAtMs !== null && this.#alarmAtMs <= atMs) return
    this.#alarmAtMs = atMs
    void this.ctx.storage.setAlarm(atMs)
  }

  #armFlush(nowMs: number): void {
    this.#armAlarm(Math.max(nowMs + FLUSH_DELAY_MS, this.#flushNotBeforeMs))
  }

  #armForPending(): void {
    const { outboxCount, nextExpiryMs, firstSettledAtMs } = this.#tables.describePending()
    if (outboxCount > 0) this.#armFlush(Date.now())
    if (nextExpiryMs !== null) this.#armAlarm(nextExpiryMs)
    if (firstSettledAtMs !== null)
      this.#armAlarm(firstSettledAtMs + SETTLED_KEPT_MS + PURGE_INTERVAL_MS)
    const firstClaimedAtMs = this.#idempotency.firstClaimedAtMs()
    const alertDueAtMs = this.#alerts.nextDueAtMs()
    if (alertDueAtMs !== null) this.#armAlarm(alertDueAtMs)
    if (firstClaimedAtMs !== null)
      this.#armAlarm(firstClaimedAtMs + IDEMPOTENCY_KEPT_MS + PURGE_INTERVAL_MS)
  }

  #insertAccount(limits: AccountLimits, nowMs: number): void {
    const accountId = this.ctx.id.name
    if (accountId === undefined) throw new Error('An account object is reached by its name.')
    const meter = createMeter(limits, nowMs)
    this.#tables.insertAccount({ accountId, salt: createSalt(), createdAtMs: nowMs, ...meter })
  }

  #mirrorKey(accountId: string, keyId: string): void {
    const key = this.#tables.findKeyById(keyId)
    if (key === null) throw new Error(`There is no key ${keyId}.`)
    const { name, start, createdAtMs, revokedAtMs } = key
    const mirror = { id: keyId, accountId, name, start, createdAtMs, revokedAtMs }
    this.#tables.appendOutbox({ kind: 'key', key: mirror })
  }

  #summarise(key: KeyRow, nowMs: number): KeySummary {
    const { keyId, name, start, createdAtMs, expiresAtMs, revokedAtMs, models } = key
    return {
      ...{ keyId, name, start, createdAtMs, expiresAtMs, revokedAtMs, models },
      ...this.#keyDetails.find(keyId),
      budget: budgetOf(key, this.#tables.sumReservations(keyId)),
      windows: this.#windows.list(keyId, nowMs),
    }
  }

  #describe(account: AccountRow, nowMs: number): AccountDescription {
    const held = this.#tables.sumReservations(null)
    const { accountId, createdAtMs, salt } = account
    const { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd } = account
    return {
      accountId,
      createdAtMs,
      salt,
      settings: {
        requestsPerMinute,
        tokensPerMinute,
        maxConcurrentRequests,
        budgetMicroUsd,
        windowBudgets: this.#windows.listSettings(ACCOUNT_SCOPE),
        alerts: this.#alerts.findRule(),
      },
      budget: budgetOf(account, held),
      windows: this.#windows.list(ACCOUNT_SCOPE, nowMs),
      openReservationCount: held.openCount,
      outboxCount: this.#tables.describePending().outboxCount,
      lastAlarmError: this.#lastAlarmError,
      counters: this.#tables.readCounters(),
    }
  }
}
