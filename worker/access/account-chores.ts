import type { Config } from '../env.ts'
import { writeLedger } from '../ledger/usage-store.ts'
import type { AccountAlarm } from './account-alarm.ts'
import type { AccountBooks } from './account-books.ts'
import type { AccountStores } from './account-stores.ts'
import { planRetry, type StoredAlert } from './alert.ts'
import { deliverAlert, deriveAlertSecret } from './alert-client.ts'
import { planBackoffMs } from './flush-backoff.ts'
import { IDEMPOTENCY_KEPT_MS } from './idempotency.ts'
import { fetchRequestReport } from './report-client.ts'
import { CACHE_KEPT_MS } from './response-cache.ts'
import type { Reservation } from './settlement.ts'
import { planSweep, type SweepPlan } from './sweep.ts'
import { explainWebhookUrl } from './webhook-url.ts'

/** A record waits this long for others, … */
const FLUSH_DELAY_MS = 1_000
/** … or until this long after the flush before: an alarm and its write to D1 cost more than a request. */
const FLUSH_INTERVAL_MS = 5_000
/** No more records wait. */
const FLUSH_BATCH_SIZE = 200
/** Of one alarm: what waits longer than that waits for the next one. */
const MAX_FLUSH_COUNT = 10
/** Backends asked at once: as many connections as may wait for headers. */
const SWEEP_BATCH_SIZE = 6
const ALERT_BATCH_SIZE = 6
/** How long a second settlement is recognised as one. */
const SETTLED_KEPT_MS = 24 * 3_600_000
/** What is old is forgotten together, not one an alarm. */
const PURGE_INTERVAL_MS = 3_600_000
const SETTLED_PURGE_SIZE = 1_000

export interface AccountChoresOptions {
  readonly stores: AccountStores
  readonly books: AccountBooks
  readonly alarm: AccountAlarm
  readonly database: D1Database
  readonly config: () => Config
  readonly transact: <T>(closure: () => T) => T
}

/**
 * What an account object does when its alarm fires: moves the outbox to D1, asks after expired
 * reservations, delivers alerts, forgets what is old. Each part may run again at any time.
 */
export class AccountChores {
  readonly #stores: AccountStores
  readonly #options: AccountChoresOptions
  #flushFailureCount = 0
  #flushedAtMs = Number.NEGATIVE_INFINITY
  #flushNotBeforeMs = 0
  #lastError: string | null = null

  constructor(options: AccountChoresOptions) {
    this.#options = options
    this.#stores = options.stores
  }

  /** Why the last flush to D1 or sweep failed; null after a flush that did not. */
  get lastError(): string | null {
    return this.#lastError
  }

  /** Never throws, because the platform gives up an alarm that fails too often. */
  async run(): Promise<void> {
    const { tables, reservations, alerts, idempotency, cache } = this.#stores
    if (await this.flush()) this.#lastError = null
    const expired = reservations.listExpired(Date.now(), SWEEP_BATCH_SIZE)
    await Promise.all(expired.map((reservation) => this.#sweep(reservation)))
    const dueAlerts = alerts.listDue(Date.now(), ALERT_BATCH_SIZE)
    await Promise.all(dueAlerts.map((alert) => this.#deliver(alert)))
    tables.deleteSettledBefore(Date.now() - SETTLED_KEPT_MS, SETTLED_PURGE_SIZE)
    idempotency.deleteClaimedBefore(Date.now() - IDEMPOTENCY_KEPT_MS)
    cache.deleteKeptBefore(Date.now() - CACHE_KEPT_MS)
  }

  /**
   * Moves the outbox to D1, unless D1 failed a moment ago. Never throws. True: all that was in it when
   * this was called is in D1.
   */
  async flush(): Promise<boolean> {
    for (let count = 0; count < MAX_FLUSH_COUNT; count++) {
      if (this.#stores.tables.countOutbox() === 0) return true
      if (Date.now() < this.#flushNotBeforeMs) return false
      const outcome = await this.#flushBatch()
      if (outcome !== 'more') return outcome === 'all'
    }
    return false
  }

  /** Sets the alarm for a flush of what was put into the outbox just now. */
  armFlush(nowMs: number): void {
    const isFull = this.#stores.tables.countOutbox() >= FLUSH_BATCH_SIZE
    const dueAtMs = Math.max(nowMs + FLUSH_DELAY_MS, this.#flushedAtMs + FLUSH_INTERVAL_MS)
    this.#options.alarm.arm(Math.max(isFull ? nowMs : dueAtMs, this.#flushNotBeforeMs))
  }

  /** Sets the alarm for whatever is still to be done. */
  armForPending(): void {
    const { alarm } = this.#options
    const firstSettledAtMs = this.#stores.tables.firstSettledAtMs()
    const nextExpiryMs = this.#stores.reservations.nextExpiryMs()
    if (this.#stores.tables.countOutbox() > 0) this.armFlush(Date.now())
    // To set an alarm costs two commits: who has just settled something is likely to settle more.
    const nextFlushAtMs = this.#flushedAtMs + FLUSH_INTERVAL_MS
    if (nextFlushAtMs > Date.now()) alarm.arm(nextFlushAtMs)
    if (nextExpiryMs !== null) alarm.arm(nextExpiryMs)
    if (firstSettledAtMs !== null) alarm.arm(firstSettledAtMs + SETTLED_KEPT_MS + PURGE_INTERVAL_MS)
    const alertDueAtMs = this.#stores.alerts.nextDueAtMs()
    if (alertDueAtMs !== null) alarm.arm(alertDueAtMs)
    const firstClaimedAtMs = this.#stores.idempotency.firstClaimedAtMs()
    if (firstClaimedAtMs !== null)
      alarm.arm(firstClaimedAtMs + IDEMPOTENCY_KEPT_MS + PURGE_INTERVAL_MS)
    const firstKeptAtMs = this.#stores.cache.firstKeptAtMs()
    if (firstKeptAtMs !== null) alarm.arm(firstKeptAtMs + CACHE_KEPT_MS + PURGE_INTERVAL_MS)
  }

  /** Leaves a reservation alone for another term. False when there is no such reservation. */
  postpone(requestId: string, sweepFailureCount: number): boolean {
    const expiresAtMs = Date.now() + this.#options.config().RESERVATION_TTL_MS
    return this.#stores.reservations.postponeExpiry(requestId, expiresAtMs, sweepFailureCount)
  }

  async #flushBatch(): Promise<'all' | 'more' | 'failed'> {
    const { entries, lastSequence } = this.#stores.tables.readOutbox(FLUSH_BATCH_SIZE)
    this.#flushedAtMs = Date.now()
    try {
      await writeLedger(this.#options.database, entries)
    } catch (error) {
      this.#lastError = String(error)
      this.#flushFailureCount += 1
      this.#flushNotBeforeMs = Date.now() + planBackoffMs(this.#flushFailureCount, Math.random())
      return 'failed'
    }
    this.#stores.tables.deleteOutboxThrough(lastSequence)
    this.#lastError = null
    this.#flushFailureCount = 0
    return entries.length === FLUSH_BATCH_SIZE ? 'more' : 'all'
  }

  /** At least once: an alert that was taken while the object died is sent again. */
  async #deliver(alert: StoredAlert): Promise<void> {
    const { accountId } = this.#options.books.requireAccount()
    const { WEBHOOK_LOOPBACK, KEY_CHECKSUM_SECRET } = this.#options.config()
    const url = this.#stores.alerts.findRule()?.url
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
    const deliveredAtMs = isTaken ? nowMs : null
    this.#stores.alerts.noteAttempt(alert.alertId, { dueAtMs, deliveredAtMs })
  }

  /** The owner may settle at any moment while the backend is asked; whoever is first counts. */
  async #sweep(reservation: Reservation): Promise<void> {
    const { requestId, backendId, sweepFailureCount } = reservation
    const backend = this.#options.config().BACKENDS.find(({ id }) => id === backendId)
    const answer =
      backend === undefined
        ? ({ outcome: 'unknown' } as const)
        : await fetchRequestReport(backend, requestId)
    try {
      this.#carryOut(planSweep(reservation, answer), reservation)
    } catch (error) {
      // One reservation that cannot be settled must not hold up the others, nor the outbox.
      this.#lastError = String(error)
      this.postpone(requestId, sweepFailureCount + 1)
    }
  }

  #carryOut(plan: SweepPlan, { requestId, sweepFailureCount }: Reservation): void {
    switch (plan.action) {
      case 'extend':
        this.postpone(requestId, 0)
        return
      case 'retry':
        this.postpone(requestId, sweepFailureCount + 1)
        return
      case 'settle':
      case 'release':
        this.#options.transact(() => {
          const { outcome } = this.#options.books.settle(plan.settlement, Date.now())
          if (outcome === 'settled')
            this.#stores.tables.incrementCounter(plan.action === 'settle' ? 'swept' : 'released')
        })
    }
  }
}
