import type { AccountBooks } from './account-books.ts'
import type { AdmitRequest, ShardAdmitResult } from './account-contract.ts'
import type { AccountStores } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import { type LeaseReport, leftOfLease } from './lease.ts'
import type { LeaseAnswer, LeasedTotal, LeaseRequest, ShardTerms } from './lease-contract.ts'
import { changeLimits, createMeter } from './meter.ts'
import type { ShardLease } from './shard-lease-table.ts'

/** The account's object, as its shards call it. */
export interface LeasePort {
  readonly lease: (request: LeaseRequest) => Promise<LeaseAnswer>
  readonly hearLeases: (
    shard: number,
    reports: readonly LeaseReport[],
  ) => Promise<readonly LeasedTotal[]>
}

interface ShardOptions {
  /** From 1 on. */
  readonly index: number
  readonly stores: AccountStores
  readonly books: AccountBooks
  readonly createPort: () => LeasePort
  readonly transact: <T>(closure: () => T) => T
  /** Runs an admission, in a transaction of its own or a shared one. */
  readonly commit: <T>(operation: () => T, nowMs: number) => Promise<T> | T
  /** To be called when there is something to report before long. */
  readonly arm: (nowMs: number) => void
}

/** Leave to admit by a key. Only in memory: an object that was lost asks again. */
interface Grant {
  readonly keyId: string
  readonly validUntilMs: number
}

const KEPT_KEY_COUNT = 1_000
/** A request that others take the room from so often is given up. */
const MAX_LEASE_COUNT = 20

/**
 * What makes an account object a shard: it admits only by what its account's object has leased to it.
 * The budget of a key is, here, what was leased for it and not returned; its meter's `spentMicroUsd` is
 * what was settled. So everything else of an account object works as it does without shards.
 */
export class AccountShard {
  readonly #options: ShardOptions
  readonly #stores: AccountStores
  /** By hash of the key's secret. */
  readonly #grants = new Map<string, Grant>()
  readonly #keyIds = new Map<string, string>()
  readonly #asking = new Map<string, Promise<unknown>>()
  /** An answer to what was asked before a recall grants nothing. */
  #recallCount = 0

  constructor(options: ShardOptions) {
    this.#options = options
    this.#stores = options.stores
  }

  async admit(request: AdmitRequest, expiresAtMs: number): Promise<ShardAdmitResult> {
    for (let leaseCount = 0; leaseCount < MAX_LEASE_COUNT; ) {
      const nowMs = Date.now()
      const admit = () => {
        const keyId = this.#findKeyOf(request)
        if (keyId === null) return null
        return this.#options.books.admit({ ...request, keyHash: keyId }, nowMs, expiresAtMs)
      }
      const result = await this.#options.commit(admit, nowMs)
      if (result !== null && result.outcome !== 'over_budget') return result
      const pending = this.#asking.get(request.keyHash)
      if (pending !== undefined) await pending.catch(() => {})
      else {
        leaseCount += 1
        const refusal = await this.#askOnce(request)
        if (refusal !== null) return refusal
      }
    }
    throw new Error(`There was no lease for ${request.requestId}.`)
  }

  /** One message about a key at a time; others wait for its answer. */
  async #askOnce(request: AdmitRequest): Promise<ShardAdmitResult | null> {
    const asking = this.#ask(request)
    this.#asking.set(request.keyHash, asking)
    try {
      return await asking
    } finally {
      this.#asking.delete(request.keyHash)
    }
  }

  /** Returns what is left of the lease and asks for a new slice, in one message. Null: try again. */
  async #ask({ keyHash, worstCaseMicroUsd }: AdmitRequest): Promise<ShardAdmitResult | null> {
    const { index: shard, createPort, arm } = this.#options
    const recallCount = this.#recallCount
    const askedAtMs = Date.now()
    const keyId = this.#keyIds.get(keyHash)
    const lease = keyId === undefined ? undefined : this.#report([keyId])[0]
    arm(askedAtMs)
    const asked = { shard, keyHash, neededMicroUsd: worstCaseMicroUsd, ...(lease && { lease }) }
    const answer = await createPort().lease(asked)
    switch (answer.outcome) {
      case 'key':
        if (this.#keyIds.size >= KEPT_KEY_COUNT) this.#forgetGrants()
        this.#keyIds.set(keyHash, answer.keyId)
        return null
      case 'stale':
        return null
      case 'leased':
      case 'refused': {
        if (lease === undefined) throw new Error('A lease was given that nobody asked for.')
        this.#options.transact(() => {
          if (answer.outcome === 'leased') this.#install(lease.keyId, answer.terms, askedAtMs)
          this.#hearTotal(lease, answer)
        })
        if (answer.outcome === 'refused') return answer.refusal
        const validUntilMs = askedAtMs + answer.validForMs
        if (recallCount === this.#recallCount)
          this.#grants.set(keyHash, { keyId: lease.keyId, validUntilMs })
        return null
      }
      default:
        return answer
    }
  }

  /** Tells what the account's object does not know yet, and returns what is not used any more. */
  async report(): Promise<void> {
    const nowMs = Date.now()
    const granted = [...this.#grants.values()].filter(({ validUntilMs }) => nowMs < validUntilMs)
    const usable = new Set(granted.map(({ keyId }) => keyId))
    const untold = this.#listUntold().filter((keyId) => !usable.has(keyId))
    if (untold.length === 0) return
    const reports = this.#report(untold)
    const totals = await this.#options.createPort().hearLeases(this.#options.index, reports)
    this.#options.transact(() => {
      for (const [index, report] of reports.entries()) {
        const total = totals[index]
        if (total !== undefined) this.#hearTotal(report, total)
      }
    })
  }

  /** Whether there is, or will be, something to report. */
  isPending(): boolean {
    return this.#listUntold().length > 0
  }

  /** Admits nothing more without asking again, and says what is returned. */
  recall(): readonly LeaseReport[] {
    this.#forgetGrants()
    this.#recallCount += 1
    return this.collect()
  }

  /** Returns all that is left, and says so; and again before long, as nobody may have heard it. */
  collect(): readonly LeaseReport[] {
    this.#options.arm(Date.now())
    const unused = this.#stores.shardLeases.list().filter((lease) => this.#leftOf(lease) > 0)
    this.#report(unused.map(({ keyId }) => keyId))
    return this.describe()
  }

  /** What leases stand at. */
  describe(): readonly LeaseReport[] {
    return this.#stores.shardLeases.list().map((lease) => this.#compose(lease))
  }

  /** By which key a request may be admitted, or was before its answer was lost. */
  #findKeyOf({ requestId, keyHash }: AdmitRequest): string | null {
    const { reservations, tables } = this.#stores
    const open = reservations.find(requestId)
    if (open !== null) return open.keyId
    if (tables.findSettledFee(requestId) !== null)
      throw new Error(`Request id ${requestId} is used already.`)
    const grant = this.#grants.get(keyHash)
    return grant !== undefined && Date.now() < grant.validUntilMs ? grant.keyId : null
  }

  #forgetGrants(): void {
    this.#grants.clear()
    this.#keyIds.clear()
  }

  #listUntold(): readonly string[] {
    const leases = this.#stores.shardLeases.list()
    return leases.filter((lease) => this.#isUntold(lease)).map(({ keyId }) => keyId)
  }

  #isUntold(lease: ShardLease): boolean {
    const { settledMicroUsd } = this.#compose(lease)
    const isAnswered = lease.answeredNumber === lease.number
    return !isAnswered || lease.toldMicroUsd !== settledMicroUsd || this.#leftOf(lease) > 0
  }

  /** The next messages about some keys, by which all that is left of their leases is returned. */
  #report(keyIds: readonly string[]): readonly LeaseReport[] {
    return this.#options.transact(() =>
      keyIds.map((keyId) => {
        const lease = this.#stores.shardLeases.find(keyId)
        const returned = this.#return({ ...lease, number: lease.number + 1 })
        return this.#compose(returned)
      }),
    )
  }

  /** Stores a lease of which nothing is left. */
  #return(lease: ShardLease): ShardLease {
    const returnedMicroUsd = lease.returnedMicroUsd + this.#leftOf(lease)
    const returned = { ...lease, returnedMicroUsd }
    this.#stores.shardLeases.put(returned)
    this.#setBudget(returned)
    return returned
  }

  #leftOf(lease: ShardLease): number {
    const { leasedMicroUsd } = lease
    const reserved = this.#stores.reservations.sum(lease.keyId).reservedMicroUsd
    return leftOfLease({ ...this.#compose(lease), leasedMicroUsd }, reserved)
  }

  #compose({ keyId, number, returnedMicroUsd }: ShardLease): LeaseReport {
    const settledMicroUsd = this.#stores.tables.findKeyById(keyId)?.spentMicroUsd ?? 0
    return { keyId, number, settledMicroUsd, returnedMicroUsd }
  }

  /** The answer to a message. */
  #hearTotal(
    { keyId, number, settledMicroUsd }: LeaseReport,
    { leasedMicroUsd }: Pick<LeasedTotal, 'leasedMicroUsd'>,
  ): void {
    const lease = this.#stores.shardLeases.find(keyId)
    const heard = {
      ...lease,
      answeredNumber: Math.max(lease.answeredNumber, number),
      leasedMicroUsd: Math.max(lease.leasedMicroUsd, leasedMicroUsd),
      toldMicroUsd: Math.max(lease.toldMicroUsd, settledMicroUsd),
    }
    this.#stores.shardLeases.put(heard)
    this.#setBudget(heard)
  }

  /** The key's budget here; a key that was never installed has none and has nothing to spend. */
  #setBudget({ keyId, leasedMicroUsd, returnedMicroUsd }: ShardLease): void {
    const { tables } = this.#stores
    const key = tables.findKeyById(keyId)
    if (key === null) return
    const budgetMicroUsd = leasedMicroUsd - returnedMicroUsd
    const changed: KeyRow = { ...key, budgetMicroUsd }
    tables.updateKeyMeter(keyId, changed)
  }

  /** Account and key as they are to be here: the account without a budget, the key without limits. */
  #install(keyId: string, terms: ShardTerms, nowMs: number): void {
    const { tables, rules, keyDetails, reservations } = this.#stores
    const { accountId, salt, createdAtMs, limits, models } = terms
    const account = tables.findAccount()
    if (account === null)
      tables.insertAccount({ accountId, salt, createdAtMs, ...createMeter(limits, nowMs) })
    else {
      const heldTokenCount = reservations.sum('account').reservedTokenCount
      tables.updateAccountMeter(changeLimits(account, limits, { nowMs, heldTokenCount }))
    }
    rules.setForAccount(terms.rules)
    rules.setForKey(keyId, terms.keyRules)
    keyDetails.setScopes(keyId, terms.scopes)
    const key = { name: keyId, expiresAtMs: null, models }
    if (tables.findKeyById(keyId) !== null) tables.updateKey(keyId, key)
    else {
      const none = { requestsPerMinute: null, tokensPerMinute: null, maxConcurrentRequests: null }
      const meter = createMeter({ ...none, budgetMicroUsd: 0 }, nowMs)
      // The shard knows no secret: whoever holds one is looked up by the account's object.
      const secret = { keyHash: keyId, start: '' }
      tables.insertKey({ keyId, ...key, ...secret, createdAtMs, revokedAtMs: null, ...meter })
    }
  }
}
