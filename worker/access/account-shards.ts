import type { SettledMonth } from '../ledger/statement.ts'
import type { MonthReading } from './account-contract.ts'
import { type AccountLeases, LEASE_TERM_MS } from './account-leases.ts'
import type { LeasePort } from './account-shard.ts'
import type { AccountStores } from './account-stores.ts'
import type { LeaseReport } from './lease.ts'
import type { ShardState } from './lease-contract.ts'

/** A shard, as its account's object calls it. */
export interface ShardPort extends LeasePort {
  readonly recallLeases: () => Promise<readonly LeaseReport[]>
  readonly collectLeases: () => Promise<readonly LeaseReport[]>
  readonly readShard: () => Promise<ShardState>
  readonly flushLedger: () => Promise<boolean>
  readonly listMonths: () => Promise<readonly SettledMonth[]>
  readonly sealMonth: (month: string) => Promise<SealedMonth>
}

export type SealedMonth = Omit<Extract<MonthReading, { outcome: 'month' }>, 'outcome'>

/** The objects of an account and its shards, by name. */
export interface ShardBindings {
  readonly ACCOUNT: { readonly getByName: (name: string) => ShardPort }
}

/** The name of the object that serves a part of an account; 0 is the account's own. */
export function nameShard(accountId: string, shard: number): string {
  return shard === 0 ? accountId : `${accountId}.${shard}`
}

export function parseShardName(name: string): { accountId: string; shard: number } {
  const [accountId = '', shard = '0'] = name.split('.')
  return { accountId, shard: Number(shard) }
}

/** Clocks may differ in their speed and be set back: twice the term is waited. */
const WAIT_OUT_MS = 2 * LEASE_TERM_MS
/** Who is refused may have all shards return what they do not use, so often, … */
const COLLECT_EVERY_MS = 1_000
/** … and waits for them no longer than that. */
const COLLECT_WITHIN_MS = 1_000

interface ShardsOptions {
  readonly stores: AccountStores
  readonly leases: AccountLeases
  readonly getPort: (shard: number) => ShardPort
  readonly transact: <T>(closure: () => T) => T
}

/** The shards of an account, as its own object calls them: none, unless some were ever leased anything. */
export class AccountShards {
  readonly #options: ShardsOptions
  #collecting: Promise<void> | null = null
  #collectedAtMs = Number.NEGATIVE_INFINITY

  constructor(options: ShardsOptions) {
    this.#options = options
  }

  /**
   * Resolves when no shard admits any more by what held before: each has said so, or its leases have
   * run out. Called after whatever changes what may be admitted.
   */
  async recall(): Promise<void> {
    if (this.#list().length === 0) return
    let timer: ReturnType<typeof setTimeout> | undefined
    const waitedOut = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, WAIT_OUT_MS)
    })
    const recalled = this.#callAll(async (shard, port) =>
      this.#hear(shard, await port.recallLeases()),
    )
    await Promise.race([waitedOut, recalled.catch(() => waitedOut)])
    clearTimeout(timer)
  }

  /** Has shards return what they do not use. False: there is nothing, or they were asked just now. */
  async collect(nowMs: number): Promise<boolean> {
    if (this.#options.stores.leases.sum('account') === 0) return false
    if (this.#collecting === null) {
      if (nowMs < this.#collectedAtMs + COLLECT_EVERY_MS) return false
      this.#collectedAtMs = nowMs
      this.#collecting = this.#collectNow().finally(() => {
        this.#collecting = null
      })
    }
    await this.#collecting
    return true
  }

  /** Hears all shards out, and says what they have under way; null for one that does not answer. */
  read(): Promise<readonly (ShardState | null)[]> {
    return this.#callAll(async (shard, port) => {
      const state = await port.readShard().catch(() => null)
      if (state !== null) this.#hear(shard, state.leases)
      return state
    })
  }

  /** False: D1 does not have all that shards have settled. */
  async flush(): Promise<boolean> {
    const flushed = await this.#callAll((_, port) => port.flushLedger())
    return flushed.every(Boolean)
  }

  listMonths(): Promise<readonly (readonly SettledMonth[])[]> {
    return this.#callAll((_, port) => port.listMonths())
  }

  sealMonth(month: string): Promise<readonly SealedMonth[]> {
    return this.#callAll((_, port) => port.sealMonth(month))
  }

  async #collectNow(): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, COLLECT_WITHIN_MS)
    })
    const collected = this.#callAll(async (shard, port) => {
      const reports = await port.collectLeases().catch(() => [])
      this.#hear(shard, reports)
    })
    await Promise.race([late, collected])
    clearTimeout(timer)
  }

  #list(): readonly number[] {
    return this.#options.stores.leases.listShards()
  }

  #callAll<T>(call: (shard: number, port: ShardPort) => Promise<T>): Promise<readonly T[]> {
    return Promise.all(this.#list().map((shard) => call(shard, this.#options.getPort(shard))))
  }

  #hear(shard: number, reports: readonly LeaseReport[]): void {
    const { transact, leases } = this.#options
    transact(() => leases.hear(shard, reports, Date.now()))
  }
}

/** The months of several objects as one. */
export function addMonths(months: readonly SettledMonth[]): SettledMonth[] {
  const byMonth = Map.groupBy(months, ({ month }) => month)
  const sums = [...byMonth].map(([month, parts]) => ({
    month,
    requestCount: sumOf(parts, 'requestCount'),
    feeMicroUsd: sumOf(parts, 'feeMicroUsd'),
    creditedMicroUsd: sumOf(parts, 'creditedMicroUsd'),
  }))
  return sums.sort((a, b) => (a.month < b.month ? 1 : -1))
}

function sumOf(parts: readonly SettledMonth[], name: Exclude<keyof SettledMonth, 'month'>): number {
  return parts.reduce((sum, part) => sum + part[name], 0)
}
