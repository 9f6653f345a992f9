import { DurableObject } from 'cloudflare:workers'
import { type Config, parseConfig, type StorageBindings } from '../env.ts'
import type { SettledMonth } from '../ledger/statement.ts'
import { AccountAlarm } from './account-alarm.ts'
import { AccountBooks } from './account-books.ts'
import { AccountChores } from './account-chores.ts'
import type {
  AdmitRequest,
  AdmitResult,
  MonthReading,
  Reroute,
  Settlement,
  SettleResult,
  ShardAdmitResult,
} from './account-contract.ts'
import { AccountLeases, LEASE_TERM_MS } from './account-leases.ts'
import { AccountShard } from './account-shard.ts'
import {
  AccountShards,
  addMonths,
  nameShard,
  parseShardName,
  type SealedMonth,
  type ShardBindings,
} from './account-shards.ts'
import { type AccountStores, createStores, forgetStores, openStores } from './account-stores.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import { CommitGroup } from './commit-group.ts'
import type { LeaseReport } from './lease.ts'
import type { LeaseAnswer, LeasedTotal, LeaseRequest, ShardState } from './lease-contract.ts'

/** Of so many open requests each may wait for others, to share a commit with them. */
const BUSY_COUNT = 4

export type AccountBindings = StorageBindings & ShardBindings

/**
 * What requests, the alarm and other objects of an account ask of one: of the account's own, or of a
 * shard, which serves a part of it by leases (account-shard.ts) and has an index in its name.
 */
export class AccountLedger extends DurableObject<AccountBindings> {
  protected readonly stores: AccountStores
  protected readonly books: AccountBooks
  readonly #alarm: AccountAlarm
  protected readonly chores: AccountChores
  readonly #commits: CommitGroup
  readonly #leases: AccountLeases
  protected readonly shards: AccountShards
  /** Null: this is the account's own object. */
  readonly #shard: AccountShard | null

  protected readonly accountId = (): string => {
    const { name } = this.ctx.id
    if (name === undefined) throw new Error('An account object is reached by its name.')
    return parseShardName(name).accountId
  }

  /** A field, so that nobody can call it from outside. */
  protected readonly transact = <T>(closure: () => T): T => {
    try {
      return this.ctx.storage.transactionSync(() => {
        const result = closure()
        this.stores.tables.writeMeters()
        this.stores.months.write()
        return result
      })
    } catch (error) {
      forgetStores(this.stores)
      throw error
    }
  }

  constructor(ctx: DurableObjectState, env: AccountBindings) {
    super(ctx, env)
    this.stores = openStores(ctx.storage.sql)
    this.books = new AccountBooks({ ...this.stores, payees: () => this.#config.PAYEES })
    this.#alarm = new AccountAlarm(ctx.storage)
    this.chores = new AccountChores({
      stores: this.stores,
      books: this.books,
      alarm: this.#alarm,
      database: env.DB,
      config: () => this.#config,
      transact: this.transact,
    })
    this.#commits = new CommitGroup({
      transact: this.transact,
      isBusy: () => this.stores.reservations.sum(ACCOUNT_SCOPE).openCount >= BUSY_COUNT,
    })
    this.#leases = new AccountLeases(this.stores, this.books)
    this.shards = new AccountShards({
      stores: this.stores,
      leases: this.#leases,
      getPort: (shard) => this.env.ACCOUNT.getByName(nameShard(this.accountId(), shard)),
      transact: this.transact,
    })
    this.#shard = this.#createShard()
    void ctx.blockConcurrencyWhile(async () => {
      createStores(this.stores)
      // The platform gives up an alarm that failed too often.
      if (!(await this.#alarm.restore())) this.#armForPending()
    })
  }

  /** Checks key, model, budgets, concurrency and rates, and reserves the worst case. */
  async admit(request: AdmitRequest): Promise<AdmitResult> {
    const nowMs = Date.now()
    const expiresAtMs = nowMs + this.#config.RESERVATION_TTL_MS
    const admit = () => this.books.admit(request, nowMs, expiresAtMs)
    let result = await this.#commits.run(admit, nowMs)
    if (result.outcome === 'over_budget' && (await this.shards.collect(nowMs)))
      result = await this.#commits.run(admit, nowMs)
    if (result.outcome === 'admitted') this.#alarm.arm(expiresAtMs)
    if (result.outcome === 'cached') this.chores.armFlush(nowMs)
    return result
  }

  /** Of a shard: the same, by what it is leased. */
  async admitShare(request: AdmitRequest): Promise<ShardAdmitResult> {
    const expiresAtMs = Date.now() + this.#config.RESERVATION_TTL_MS
    const result = await this.#requireShard().admit(request, expiresAtMs)
    if (result.outcome === 'admitted') this.#alarm.arm(expiresAtMs)
    return result
  }

  /** Prices, splits and records a request that ended, and frees its reservation. */
  async settle(settlement: Settlement): Promise<SettleResult> {
    const nowMs = Date.now()
    const result = await this.#commits.run(() => this.books.settle(settlement, nowMs), nowMs)
    if (result.outcome === 'settled') this.chores.armFlush(nowMs)
    return result
  }

  /**
   * Says that a reservation's owner is still at work, so that the sweep leaves it alone for another
   * term. False when it is settled already, or was never made.
   */
  renew(requestId: string): boolean {
    return this.chores.postpone(requestId, 0)
  }

  /** Moves a reservation to another backend and its price, for another term. False as `renew`. */
  reroute(requestId: string, to: Reroute): boolean {
    return this.transact(
      () => this.books.reroute(requestId, to) && this.chores.postpone(requestId, 0),
    )
  }

  /** Leases to a shard what a request needs, and more. */
  async lease(request: LeaseRequest): Promise<LeaseAnswer> {
    const lease = (isHeard: boolean) =>
      this.transact(() => this.#leases.lease(request, Date.now(), isHeard))
    const answer = lease(false)
    if (answer.outcome !== 'refused') return answer
    return (await this.shards.collect(Date.now())) ? lease(true) : answer
  }

  /** Hears what shards have settled and return; says what was ever leased to them. */
  hearLeases(shard: number, reports: readonly LeaseReport[]): readonly LeasedTotal[] {
    return this.transact(() => this.#leases.hear(shard, reports, Date.now()))
  }

  /** Of a shard: it admits nothing more without asking again. */
  recallLeases(): readonly LeaseReport[] {
    return this.#requireShard().recall()
  }

  /** Of a shard: it returns what it does not use. */
  collectLeases(): readonly LeaseReport[] {
    return this.#requireShard().collect()
  }

  /** Of a shard: what it has under way. */
  readShard(): ShardState {
    const { reservations, tables } = this.stores
    return {
      leases: this.#requireShard().describe(),
      openReservationCount: reservations.sum(ACCOUNT_SCOPE).openCount,
      outboxCount: tables.countOutbox(),
      counters: tables.readCounters(),
    }
  }

  /** Runs at least once and may repeat. Never throws (account-chores.ts). */
  override async alarm(): Promise<void> {
    this.#alarm.noteFired()
    await this.chores.run()
    await this.#shard?.report().catch(() => {}) // told again by the next alarm
    this.#armForPending()
  }

  /** Brings to D1 what was settled until now, for whoever is about to read it there. False: D1 fails. */
  async flushLedger(): Promise<boolean> {
    const flushed = await Promise.all([this.chores.flush(), this.shards.flush()])
    return flushed.every(Boolean)
  }

  /** What was settled in a UTC month, which is sealed if it is over. */
  async readMonth(month: string): Promise<MonthReading> {
    const nowMs = Date.now()
    const reading = this.transact(() => this.books.readMonth(month, nowMs))
    const parts = reading.outcome === 'none' ? [] : await this.shards.sealMonth(month)
    if (reading.outcome === 'none' || parts.length === 0) return reading
    const [settled = reading.settled] = addMonths([reading, ...parts].map((each) => each.settled))
    const isSealed = [reading, ...parts].every((each) => each.isSealed)
    return { outcome: 'month', settled, isSealed }
  }

  /** Of a shard: what it has settled in a month. */
  sealMonth(month: string): SealedMonth {
    const { months } = this.stores
    const nowMs = Date.now()
    return this.transact(() => {
      const isSealed = months.seal(month, nowMs)
      return { settled: months.find(month), isSealed }
    })
  }

  /** The months with settlements, the newest first. */
  async listMonths(): Promise<readonly SettledMonth[]> {
    const own = this.stores.months.list()
    const others = await this.shards.listMonths()
    return others.length === 0 ? own : addMonths([own, ...others].flat())
  }

  get #config(): Config {
    return parseConfig(this.env)
  }

  #createShard(): AccountShard | null {
    const index = parseShardName(this.ctx.id.name ?? '').shard
    if (index === 0) return null
    return new AccountShard({
      index,
      stores: this.stores,
      books: this.books,
      createPort: () => this.env.ACCOUNT.getByName(this.accountId()),
      transact: this.transact,
      commit: (operation, nowMs) => this.#commits.run(operation, nowMs),
      arm: (nowMs) => this.#alarm.arm(nowMs + LEASE_TERM_MS),
    })
  }

  #requireShard(): AccountShard {
    if (this.#shard === null) throw new Error('This is no shard.')
    return this.#shard
  }

  #armForPending(): void {
    this.chores.armForPending()
    if (this.#shard?.isPending()) this.#alarm.arm(Date.now() + LEASE_TERM_MS)
  }
}
