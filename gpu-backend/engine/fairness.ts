import assert from 'node:assert/strict'

/** What a computed prompt token and a sampled token cost a tenant's counter (Sheng et al., "Fairness in serving large language models", 2024). */
const INPUT_WEIGHT = 1
const OUTPUT_WEIGHT = 2

/** Shares the engine between tenants by virtual token counters: who has used least goes next. */
export interface Fairness {
  /** A request of the tenant was accepted. A tenant that was away catches up to the smallest active counter: being idle saves nothing up. */
  readonly enter: (tenant: string) => void
  /** A request that entered has ended. */
  readonly leave: (tenant: string) => void
  readonly chargeInput: (tenant: string, tokenCount: number) => void
  readonly chargeOutput: (tenant: string, tokenCount: number) => void
  /** How many requests were admitted so far: the clock of `WaitingEntry.enteredAt`. */
  readonly admittedCount: () => number
  readonly noteAdmission: (tenant: string) => void
  /** Of entries in arrival order, the one to admit next; null when there is none. */
  readonly pickNext: <T extends WaitingEntry>(waiting: readonly T[]) => T | null
}

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
}

/**
 * `maxPassedOverCount` bounds how often others go before a waiting tenant, whatever their
 * counters say: after that many admissions of others it is next, behind only those passed over more often.
 */
export function createFairness(maxPassedOverCount: number): Fairness {
  const accounts = new Map<string, Account>()
  let admittedCount = 0

  function accountOf(tenant: string): Account {
    const account = accounts.get(tenant)
    assert(account !== undefined, `tenant ${tenant} has no live request`)
    return account
  }

  function smallestActiveCounter(): number {
    const active = [...accounts.values()].filter((account) => account.liveCount > 0)
    return active.reduce((least, account) => Math.min(least, account.counter), Infinity)
  }

  function enter(tenant: string): void {
    const account = accounts.get(tenant) ?? { counter: 0, liveCount: 0, admittedAt: 0 }
    if (account.liveCount === 0) {
      const floor = smallestActiveCounter()
      if (floor !== Infinity) account.counter = Math.max(account.counter, floor)
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

  function pickNext<T extends WaitingEntry>(waiting: readonly T[]): T | null {
    let next: T | null = null
    const seen = new Set<string>()
    for (const entry of waiting) {
      if (seen.has(entry.tenant)) continue
      seen.add(entry.tenant)
      if (next === null || goesBefore(entry, next)) next = entry
    }
    return next
  }

  function goesBefore(left: WaitingEntry, right: WaitingEntry): boolean {
    const leftPassed = passedOverCount(left)
    const rightPassed = passedOverCount(right)
    if (Math.max(leftPassed, rightPassed) >= maxPassedOverCount) return leftPassed > rightPassed
    return accountOf(left.tenant).counter < accountOf(right.tenant).counter
  }

  function passedOverCount(oldest: WaitingEntry): number {
    return admittedCount - Math.max(oldest.enteredAt, accountOf(oldest.tenant).admittedAt)
  }

  return {
    enter,
    leave,
    chargeInput: (tenant, tokenCount) => {
      accountOf(tenant).counter += INPUT_WEIGHT * tokenCount
    },
    chargeOutput: (tenant, tokenCount) => {
      accountOf(tenant).counter += OUTPUT_WEIGHT * tokenCount
    },
    admittedCount: () => admittedCount,
    noteAdmission,
    pickNext,
  }
}
