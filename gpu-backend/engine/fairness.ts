import assert from 'node:assert/strict'

/** What a computed prompt token and a sampled token cost a tenant's counter (Sheng et al., "Fairness in serving large language models", 2024). */
const INPUT_WEIGHT = 1
const OUTPUT_WEIGHT = 2

/** Shares the engine between tenants: who has the smallest share of it goes next, and of equal ones who was charged least, by virtual token counters. */
export interface Fairness {
  /** A request of the tenant was accepted. A tenant of which none waited catches up to the smallest counter of the others, less the burst: asking for little saves no more up. */
  readonly enter: (tenant: string, hasWaiting: boolean) => void
  /** A request that entered has ended. */
  readonly leave: (tenant: string) => void
  /** A chunk of a prompt of the tenant was computed, of which `tokenCount` tokens are charged. */
  readonly chargeInput: (tenant: string, tokenCount: number) => void
  readonly chargeOutput: (tenant: string, tokenCount: number) => void
  /** How many requests were admitted so far: the clock of `WaitingEntry.enteredAt`. */
  readonly admittedCount: () => number
  readonly noteAdmission: (tenant: string) => void
  /** Weighted tokens; of a tenant with a live request. */
  readonly counterOf: (tenant: string) => number
  /** How many chunks of others were computed since the tenant's latest. */
  readonly chunksSince: (tenant: string) => number
  /** Tenants with a live request. */
  readonly activeCount: () => number
  /** Of entries in the order that each tenant's are to be admitted, the next; null when there is none. */
  readonly pickNext: <T extends WaitingEntry>(waiting: readonly T[], shareOf: ShareOf) => T | null
}

/** What part of the engine a tenant has. */
type ShareOf = (tenant: string) => number

export interface WaitingEntry {
  readonly tenant: string
  /** `admittedCount` when it was accepted. */
  readonly enteredAt: number
}

interface Account {
  counter: number
  liveCount: number
  /** `admittedCount` after the tenant's latest admission. */
  admittedAt: number
  /** `chunkCount` after the tenant's latest chunk. */
  chunkAt: number
}

export interface FairnessLimits {
  /** Bounds how often others go before a waiting tenant, whatever their shares and counters are: after that many admissions of others it is next, behind only those passed over more often. */
  readonly maxPassedOverCount: number
  /** Weighted tokens that a tenant that asked for little may have before the others, so that a prompt of its own is not cut up between theirs. */
  readonly burstTokens: number
}

export function createFairness({ maxPassedOverCount, burstTokens }: FairnessLimits): Fairness {
  const accounts = new Map<string, Account>()
  let admittedCount = 0
  let chunkCount = 0

  function accountOf(tenant: string): Account {
    const account = accounts.get(tenant)
    assert(account !== undefined, `tenant ${tenant} has no live request`)
    return account
  }

  function smallestActiveCounter(except?: Account): number {
    const active = [...accounts.values()].filter(
      (account) => account.liveCount > 0 && account !== except,
    )
    return active.reduce((least, account) => Math.min(least, account.counter), Infinity)
  }

  function enter(tenant: string, hasWaiting: boolean): void {
    const newAccount = { counter: 0, liveCount: 0, admittedAt: 0, chunkAt: chunkCount }
    const account = accounts.get(tenant) ?? newAccount
    if (!hasWaiting) {
      const floor = smallestActiveCounter(account)
      if (floor !== Infinity) account.counter = Math.max(account.counter, floor - burstTokens)
    }
    account.liveCount++
    accounts.set(tenant, account)
  }

  function leave(tenant: string): void {
    const account = accountOf(tenant)
    account.liveCount--
    if (account.liveCount > 0) return
    // Forgets who would be lifted on return anyway: everybody, once nobody is active.
    const floor = smallestActiveCounter()
    for (const [name, { liveCount, counter }] of accounts) {
      if (liveCount === 0 && counter <= floor) accounts.delete(name)
    }
  }

  function noteAdmission(tenant: string): void {
    admittedCount++
    accountOf(tenant).admittedAt = admittedCount
  }

  function pickNext<T extends WaitingEntry>(waiting: readonly T[], shareOf: ShareOf): T | null {
    let next: T | null = null
    const seen = new Set<string>()
    for (const entry of waiting) {
      if (seen.has(entry.tenant)) continue
      seen.add(entry.tenant)
      if (next === null || goesBefore(entry, next, shareOf)) next = entry
    }
    return next
  }

  function goesBefore(left: WaitingEntry, right: WaitingEntry, shareOf: ShareOf): boolean {
    const leftPassed = passedOverCount(left)
    const rightPassed = passedOverCount(right)
    if (Math.max(leftPassed, rightPassed) >= maxPassedOverCount) return leftPassed > rightPassed
    const [leftAccount, rightAccount] = [accountOf(left.tenant), accountOf(right.tenant)]
    const difference =
      shareOf(left.tenant) - shareOf(right.tenant) ||
      leftAccount.counter - rightAccount.counter ||
      leftAccount.admittedAt - rightAccount.admittedAt
    return difference < 0
  }

  function passedOverCount(oldest: WaitingEntry): number {
    return admittedCount - Math.max(oldest.enteredAt, accountOf(oldest.tenant).admittedAt)
  }

  return {
    enter,
    leave,
    chargeInput: (tenant, tokenCount) => {
      const account = accountOf(tenant)
      account.counter += INPUT_WEIGHT * tokenCount
      account.chunkAt = ++chunkCount
    },
    chargeOutput: (tenant, tokenCount) => {
      accountOf(tenant).counter += OUTPUT_WEIGHT * tokenCount
    },
    counterOf: (tenant) => accountOf(tenant).counter,
    chunksSince: (tenant) => chunkCount - accountOf(tenant).chunkAt,
    activeCount: () => [...accounts.values()].filter(({ liveCount }) => liveCount > 0).length,
    admittedCount: () => admittedCount,
    noteAdmission,
    pickNext,
  }
}
