import type { Digest } from '../../protocol/digest.ts'
import { commitAccount } from '../../protocol/usage-leaf.ts'
import type { Config } from '../env.ts'
import { createAlertId, createSalt } from '../ids.ts'
import { endOfMonth, startOfMonth } from '../ledger/month.ts'
import type {
  AdmitRequest,
  AdmitResult,
  MonthReading,
  Reroute,
  Settlement,
  SettleResult,
} from './account-contract.ts'
import { AccountScopes, snapshotScopes } from './account-scopes.ts'
import { hasScope } from './account-settings.ts'
import type { AccountStores } from './account-stores.ts'
import type { AccountRow, AccountTables, KeyRow } from './account-tables.ts'
import {
  type Admission,
  type AdmissionScope,
  confineToShare,
  decideAdmission,
  findOverBudget,
  LASTING_MS,
  leftOfBudgets,
  type OverBudget,
} from './admission.ts'
import { planAlerts } from './alert.ts'
import type { AlertTable } from './alert-table.ts'
import { ACCOUNT_SCOPE, type BudgetWindowTable } from './budget-window-table.ts'
import { type CreditGrant, type GrantResult, isSameGrant } from './credit.ts'
import type { CreditTable } from './credit-table.ts'
import { recallAnswer } from './idempotency.ts'
import type { IdempotencyTable } from './idempotency-table.ts'
import type { KeyDetailsTable } from './key-details-table.ts'
import type { MemberTable } from './member-table.ts'
import type { MonthTable } from './month-table.ts'
import { priceAt } from './pricing.ts'
import type { ReservationTable } from './reservation-table.ts'
import { type CacheClaim, type CachedAnswer, renameAnswer } from './response-cache.ts'
import type { ResponseCacheTable } from './response-cache-table.ts'
import {
  composeEmptySettlement,
  countedModels,
  namedModels,
  priceSettlement,
} from './settlement.ts'
import type { TrafficRuleTable } from './traffic-rule-table.ts'

/** A request that is answered from the cache. */
const NO_COST = { worstCaseMicroUsd: 0, worstCaseTokenCount: 0 }

export interface AccountBooksOptions extends AccountStores {
  readonly payees: () => Config['PAYEES']
}

/**
 * How an account's books change: admissions and settlements. Every method is synchronous and has to
 * run as one transaction.
 */
export class AccountBooks {
  readonly #tables: AccountTables
  readonly #reservations: ReservationTable
  readonly #idempotency: IdempotencyTable
  readonly #windows: BudgetWindowTable
  readonly #alerts: AlertTable
  readonly #keyDetails: KeyDetailsTable
  readonly #credits: CreditTable
  readonly #months: MonthTable
  readonly #cache: ResponseCacheTable
  readonly #rules: TrafficRuleTable
  readonly #members: MemberTable
  readonly #scopes: AccountScopes
  readonly #payees: AccountBooksOptions['payees']
  /** Of the one account and its one salt. */
  #accountCommitment: Digest | null = null

  constructor(options: AccountBooksOptions) {
    this.#tables = options.tables
    this.#reservations = options.reservations
    this.#idempotency = options.idempotency
    this.#windows = options.windows
    this.#alerts = options.alerts
    this.#keyDetails = options.keyDetails
    this.#credits = options.credits
    this.#months = options.months
    this.#cache = options.cache
    this.#rules = options.rules
    this.#members = options.members
    this.#scopes = new AccountScopes(options)
    this.#payees = options.payees
  }

  admit(request: AdmitRequest, nowMs: number, expiresAtMs: number): AdmitResult {
    const {
      keyHash,
      idempotency: claim,
      priceChanges = [],
      otherModels,
      cache,
      ...reserved
    } = request
    const key = this.findValidKey(keyHash, nowMs)
    if (key === null) return { outcome: 'unknown_key' }
    this.#keyDetails.noteUse(key.keyId, nowMs)
    const { scopes } = this.#keyDetails.find(key.keyId)
    if (!hasScope(scopes, 'inference')) return { outcome: 'insufficient_scope' }
    const { requestId } = request
    const cached = cache === undefined ? null : this.#cache.find(cache.key, nowMs)
    const repeated = this.#admitAgain(request, { key, cached, nowMs })
    if (repeated !== null) return repeated
    if (claim !== undefined) {
      const first = this.#idempotency.find(key.keyId, claim.key)
      const isOpen = first !== null && this.#reservations.find(first.requestId) !== null
      const recall = recallAnswer(first, claim, { isOpen, nowMs })
      if (recall.outcome !== 'new') return recall
    }

    const cost = cached === null ? request : { ...request, ...NO_COST }
    const admission = this.#decide(key, cost, nowMs)
    if (admission.outcome !== 'admitted') return admission
    const { limits, tier } = admission
    const { shards } = this.#rules.ofAccount()
    this.#scopes.store(admission.rations)
    const price = priceAt({ price: request.price, priceChanges }, nowMs)
    const terms = { admittedAtMs: nowMs, expiresAtMs, sweepFailureCount: 0 }
    const memberId = this.#members.findOwner(key.keyId)
    const counted = otherModels && { countedModels: namedModels(request) }
    const owners = { keyId: key.keyId, ...(memberId !== null && { memberId }) }
    const reservation = { ...reserved, ...counted, price, ...owners, ...terms }
    if (claim !== undefined) this.#idempotency.claim(key.keyId, claim, { requestId, nowMs })
    if (cache === undefined || cached === null) {
      this.#reservations.insert({ ...reservation, ...(cache && { cache }) })
      return { outcome: 'admitted', limits, tier, ...(shards > 1 && { shards }) }
    }
    this.#reservations.insert({ ...reservation, ...NO_COST })
    const answer = renameAnswer(cached, requestId)
    const { modelDigest, adapterDigest } = cache
    const empty = composeEmptySettlement(requestId, 'cached')
    this.settle({ ...empty, modelDigest, adapterDigest, answer }, nowMs)
    return { outcome: 'cached', limits, answer }
  }

  /** What a request gets whose admission was lost on its way; null for one that is new. */
  #admitAgain(
    request: AdmitRequest,
    { key, cached, nowMs }: { key: KeyRow; cached: CachedAnswer | null; nowMs: number },
  ): AdmitResult | null {
    const { requestId } = request
    const open = this.#reservations.find(requestId)
    const isSettled = this.#tables.findSettledFee(requestId) !== null
    if (open === null && !isSettled) return null
    const limits = snapshotScopes(this.#scopes.list(key, namedModels(request), nowMs), nowMs)
    if (open !== null && open.keyId === key.keyId) {
      const tier = open.tier ?? this.#rules.ofKey(key.keyId).tier
      return { outcome: 'admitted', limits, tier }
    }
    if (isSettled && cached !== null)
      return { outcome: 'cached', limits, answer: renameAnswer(cached, requestId) }
    throw new Error(`Request id ${requestId} is used already.`)
  }

  #decide(key: KeyRow, request: AdmitRequest, nowMs: number): Admission {
    const scopes = this.#scopes.list(key, namedModels(request), nowMs)
    const admission = decideAdmission(
      {
        scopes,
        balanceMicroUsd: this.#credits.isPrepaid() ? this.#credits.sumLeft(nowMs) : null,
        allowedModels: key.models,
        keyTier: this.#rules.ofKey(key.keyId).tier,
        tierPercents: this.#rules.ofAccount().tierPercents,
      },
      request,
      nowMs,
    )
    if (admission.outcome === 'over_budget')
      return this.#explainRolling(admission, { scopes, request, nowMs })
    return this.#rules.ofAccount().shards > 1
      ? confineToShare(admission, scopes, request)
      : admission
  }

  /** When a rolling window will have room, for a refusal by one. */
  #explainRolling(admission: OverBudget, { scopes, request, nowMs }: RefusedSpending): OverBudget {
    if (admission.window !== 'rolling') return admission
    const { spentMicroUsd, reservedMicroUsd, limitMicroUsd } = admission
    const neededMicroUsd =
      spentMicroUsd + reservedMicroUsd + request.worstCaseMicroUsd - limitMicroUsd
    const owner = scopes.find(({ scope }) => scope === admission.scope)?.owner ?? ACCOUNT_SCOPE
    const findRelief = (microUsd: number) => this.#windows.findRollingRelief(owner, microUsd, nowMs)
    const resetsAtMs = findRelief(neededMicroUsd)
    const spentTooMuchMicroUsd = neededMicroUsd - reservedMicroUsd
    if (spentTooMuchMicroUsd <= 0) return { ...admission, resetsAtMs }
    const standsUntilMs = findRelief(spentTooMuchMicroUsd) ?? nowMs + LASTING_MS
    return { ...admission, resetsAtMs, standsForMs: standsUntilMs - nowMs }
  }

  /** What the budgets of a key have left for a lease; or the refusal of the request that needs it. */
  findRoom(key: KeyRow, neededMicroUsd: number, nowMs: number): Room {
    const scopes = this.#scopes.list(key, [], nowMs)
    const overBudget = findOverBudget(scopes, neededMicroUsd, nowMs)
    const request = { worstCaseMicroUsd: neededMicroUsd }
    const refusal = overBudget && this.#explainRolling(overBudget, { scopes, request, nowMs })
    return { refusal, roomMicroUsd: leftOfBudgets(scopes) }
  }

  /** Counts fees that a shard has settled by its lease; the records and their months are the shard's. */
  spendLeased(key: KeyRow, feeMicroUsd: number, nowMs: number): void {
    const scopes = this.#scopes.list(key, [], nowMs)
    this.#scopes.settle(scopes, { feeMicroUsd, unusedTokenCount: 0 }, nowMs)
    for (const scope of scopes) this.#spend(scope, feeMicroUsd, nowMs)
  }

  /** Moves a reservation to another backend or model, at the price in force there when it was admitted. False: there is none. */
  reroute(requestId: string, { backendId, model, ...tariff }: Reroute): boolean {
    const reservation = this.#reservations.find(requestId)
    if (reservation === null) return false
    const price = priceAt(tariff, reservation.admittedAtMs)
    return this.#reservations.reroute(requestId, {
      backendId,
      price,
      model: model ?? reservation.model,
    })
  }

  /** Settles once. The fee belongs to the windows and the month of the record's `completedAtMs`. */
  settle(settlement: Settlement, clockMs: number): SettleResult {
    const { requestId, answer } = settlement
    const reservation = this.#reservations.find(requestId)
    if (reservation === null) {
      const feeMicroUsd = this.#tables.findSettledFee(requestId)
      if (feeMicroUsd === null) return { outcome: 'unknown_request' }
      return { outcome: 'already_settled', feeMicroUsd }
    }
    const nowMs = this.#months.settlingTime(clockMs)
    const account = this.requireAccount()
    const key = this.#tables.findKeyById(reservation.keyId)
    if (key === null) throw new Error(`Reservation ${requestId} has no key.`)

    const { record, unusedTokenCount, forgoneMicroUsd } = priceSettlement(reservation, settlement, {
      accountId: account.accountId,
      accountCommitment: this.#commitAccount(account),
      contentSalt: createSalt(),
      payees: this.#payees(),
      nowMs,
    })
    const { feeMicroUsd } = record
    const settled = { feeMicroUsd, unusedTokenCount }
    const scopes = this.#scopes.list(key, countedModels(reservation), nowMs)
    this.#scopes.settle(scopes, settled, nowMs)
    for (const scope of scopes) this.#spend(scope, feeMicroUsd, nowMs)
    const creditedMicroUsd = this.#credits.draw(feeMicroUsd, reservation.admittedAtMs)
    this.#months.add(nowMs, feeMicroUsd, creditedMicroUsd)
    this.#reservations.delete(requestId)
    this.#tables.insertSettled(requestId, feeMicroUsd, nowMs)
    this.#tables.appendOutbox({ kind: 'usage', record })
    if (forgoneMicroUsd > 0) this.#tables.incrementCounter('clamped')
    if (answer !== undefined) this.#idempotency.keepAnswer(requestId, answer)
    else if (feeMicroUsd === 0) this.#idempotency.release(requestId)
    const { cache } = reservation
    if (cache !== undefined && answer !== undefined && isOfWeights(settlement, cache))
      this.#cache.keep(cache.key, answer, { requestId, nowMs })
    return { outcome: 'settled', feeMicroUsd }
  }

  #commitAccount({ accountId, salt }: AccountRow): Digest {
    this.#accountCommitment ??= commitAccount(accountId, salt)
    return this.#accountCommitment
  }

  grantCredit(grant: CreditGrant, nowMs: number): GrantResult {
    const { creditId, expiresAtMs } = grant
    const known = this.#credits.find(creditId)
    if (known !== null)
      return isSameGrant(known, grant)
        ? { outcome: 'repeated', credit: known }
        : { outcome: 'conflict' }
    if (expiresAtMs !== null && expiresAtMs <= nowMs) return { outcome: 'expired' }
    this.#credits.insert(grant, nowMs)
    const credit = { ...grant, leftMicroUsd: grant.amountMicroUsd, grantedAtMs: nowMs }
    return { outcome: 'granted', credit }
  }

  readMonth(month: string, nowMs: number): MonthReading {
    const { createdAtMs } = this.requireAccount()
    const hasBegun = startOfMonth(month) <= this.#months.settlingTime(nowMs)
    if (endOfMonth(month) <= createdAtMs || !hasBegun) return { outcome: 'none' }
    const isSealed = this.#months.seal(month, nowMs)
    return { outcome: 'month', settled: this.#months.find(month), isSealed }
  }

  /** Counts a fee in the windows of a scope, and records what its operator wants to be told. */
  #spend(
    { scope, owner, meter, windows }: AdmissionScope,
    feeMicroUsd: number,
    nowMs: number,
  ): void {
    const rule = this.#alerts.findRule()
    if (rule !== null) {
      const { budgetMicroUsd: limitMicroUsd, spentMicroUsd } = meter
      const budgets = [{ window: 'total' as const, limitMicroUsd, spentMicroUsd }, ...windows]
      const changes = budgets.map((budget) => ({
        scope,
        keyId: scope === 'key' ? owner : null,
        memberId: scope === 'member' ? owner : null,
        window: budget.window,
        limitMicroUsd: budget.limitMicroUsd,
        spentBeforeMicroUsd: budget.spentMicroUsd,
        spentMicroUsd: budget.spentMicroUsd + feeMicroUsd,
      }))
      const alerts = planAlerts(rule, changes, { nowMs, createId: createAlertId })
      for (const alert of alerts) this.#alerts.insert(alert)
    }
    this.#windows.spend(owner, feeMicroUsd, nowMs)
  }

  /** Null for a key that is unknown, revoked or expired. */
  findValidKey(keyHash: string, nowMs: number): KeyRow | null {
    const replacedKeyId = this.#keyDetails.findByReplacedSecret(keyHash, nowMs)
    const key =
      replacedKeyId === null
        ? this.#tables.findKeyByHash(keyHash)
        : this.#tables.findKeyById(replacedKeyId)
    if (key === null || key.revokedAtMs !== null) return null
    return key.expiresAtMs !== null && key.expiresAtMs <= nowMs ? null : key
  }

  requireAccount(): AccountRow {
    const account = this.#tables.findAccount()
    if (account === null) throw new Error('The account was never configured.')
    return account
  }
}

interface RefusedSpending {
  readonly scopes: readonly AdmissionScope[]
  readonly request: Pick<AdmitRequest, 'worstCaseMicroUsd'>
  readonly nowMs: number
}

interface Room {
  readonly refusal: OverBudget | null
  /** Of the tightest budget; null: there is none. */
  readonly roomMicroUsd: number | null
}

/** Whether an answer came from the weights that its request was meant for. */
function isOfWeights(settlement: Settlement, { modelDigest, adapterDigest }: CacheClaim): boolean {
  return settlement.modelDigest === modelDigest && settlement.adapterDigest === adapterDigest
}
