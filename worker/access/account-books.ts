import type { Config } from '../env.ts'
import { createAlertId, createSalt } from '../ids.ts'
import type { AdmitRequest, AdmitResult, Settlement, SettleResult } from './account-contract.ts'
import type { AccountStores } from './account-stores.ts'
import type { AccountRow, AccountTables, KeyRow } from './account-tables.ts'
import { decideAdmission } from './admission.ts'
import { type BudgetChange, planAlerts } from './alert.ts'
import type { AlertTable } from './alert-table.ts'
import { ACCOUNT_SCOPE, type BudgetWindowTable } from './budget-window-table.ts'
import { recallAnswer } from './idempotency.ts'
import type { IdempotencyTable } from './idempotency-table.ts'
import type { KeyDetailsTable } from './key-details-table.ts'
import { type Meter, settleMeter, snapshotLimits } from './meter.ts'
import type { ReservationTable } from './reservation-table.ts'
import { priceSettlement } from './settlement.ts'

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
  readonly #payees: AccountBooksOptions['payees']

  constructor({
    tables,
    reservations,
    idempotency,
    windows,
    alerts,
    keyDetails,
    payees,
  }: AccountBooksOptions) {
    this.#tables = tables
    this.#reservations = reservations
    this.#idempotency = idempotency
    this.#windows = windows
    this.#alerts = alerts
    this.#keyDetails = keyDetails
    this.#payees = payees
  }

  admit(request: AdmitRequest, nowMs: number, expiresAtMs: number): AdmitResult {
    const { keyHash, idempotency: claim, ...reserved } = request
    const key = this.findValidKey(keyHash, nowMs)
    if (key === null) return { outcome: 'unknown_key' }
    this.#keyDetails.noteUse(key.keyId, nowMs)
    const { scopes } = this.#keyDetails.find(key.keyId)
    if (scopes !== null && !scopes.includes('inference')) return { outcome: 'insufficient_scope' }
    const account = this.requireAccount()
    const { requestId } = request
    const open = this.#reservations.find(requestId)
    if (open !== null && open.keyId === key.keyId)
      return { outcome: 'admitted', limits: snapshotLimits(account, key, nowMs) }
    if (open !== null || this.#tables.findSettledFee(requestId) !== null)
      throw new Error(`Request id ${requestId} is used already.`)
    if (claim !== undefined) {
      const first = this.#idempotency.find(key.keyId, claim.key)
      const isOpen = first !== null && this.#reservations.find(first.requestId) !== null
      const recall = recallAnswer(first, claim, { isOpen, nowMs })
      if (recall.outcome !== 'new') return recall
    }

    const admission = decideAdmission(
      {
        account,
        accountHeld: this.#reservations.sum(null),
        key,
        keyHeld: this.#reservations.sum(key.keyId),
        accountWindows: this.#windows.list(ACCOUNT_SCOPE, nowMs),
        keyWindows: this.#windows.list(key.keyId, nowMs),
        allowedModels: key.models,
      },
      request,
      nowMs,
    )
    if (admission.outcome === 'over_budget' && admission.window === 'rolling') {
      const { spentMicroUsd, reservedMicroUsd, limitMicroUsd } = admission
      const neededMicroUsd =
        spentMicroUsd + reservedMicroUsd + request.worstCaseMicroUsd - limitMicroUsd
      const scope = admission.scope === 'key' ? key.keyId : ACCOUNT_SCOPE
      const resetsAtMs = this.#windows.findRollingRelief(scope, neededMicroUsd, nowMs)
      return { ...admission, resetsAtMs }
    }
    if (admission.outcome !== 'admitted') return admission
    this.#tables.updateAccountMeter(admission.account)
    this.#tables.updateKeyMeter(key.keyId, admission.key)
    const terms = { admittedAtMs: nowMs, expiresAtMs, sweepFailureCount: 0 }
    this.#reservations.insert({ ...reserved, keyId: key.keyId, ...terms })
    if (claim !== undefined) this.#idempotency.claim(key.keyId, claim, { requestId, nowMs })
    return { outcome: 'admitted', limits: admission.limits }
  }

  settle(settlement: Settlement, nowMs: number): SettleResult {
    const { requestId, answer } = settlement
    const reservation = this.#reservations.find(requestId)
    if (reservation === null) {
      const feeMicroUsd = this.#tables.findSettledFee(requestId)
      if (feeMicroUsd === null) return { outcome: 'unknown_request' }
      return { outcome: 'already_settled', feeMicroUsd }
    }
    const account = this.requireAccount()
    const key = this.#tables.findKeyById(reservation.keyId)
    if (key === null) throw new Error(`Reservation ${requestId} has no key.`)

    const { record, unusedTokenCount, forgoneMicroUsd } = priceSettlement(reservation, settlement, {
      accountId: account.accountId,
      accountSalt: account.salt,
      contentSalt: createSalt(),
      payees: this.#payees(),
      nowMs,
    })
    const { feeMicroUsd } = record
    const settled = { feeMicroUsd, unusedTokenCount }
    this.#tables.updateAccountMeter(settleMeter(account, settled, nowMs))
    this.#tables.updateKeyMeter(key.keyId, settleMeter(key, settled, nowMs))
    this.#spend({ scope: 'key', keyId: key.keyId, total: key }, feeMicroUsd, nowMs)
    this.#spend({ scope: 'account', keyId: null, total: account }, feeMicroUsd, nowMs)
    this.#reservations.delete(requestId)
    this.#tables.insertSettled(requestId, feeMicroUsd, nowMs)
    this.#tables.appendOutbox({ kind: 'usage', record })
    if (forgoneMicroUsd > 0) this.#tables.incrementCounter('clamped')
    if (answer !== undefined) this.#idempotency.keepAnswer(requestId, answer)
    else if (feeMicroUsd === 0) this.#idempotency.release(requestId)
    return { outcome: 'settled', feeMicroUsd }
  }

  /** Counts a fee in the windows of a scope, and records what its operator wants to be told. */
  #spend(
    { scope, keyId, total }: Pick<BudgetChange, 'scope' | 'keyId'> & { readonly total: Meter },
    feeMicroUsd: number,
    nowMs: number,
  ): void {
    const owner = keyId ?? ACCOUNT_SCOPE
    const rule = this.#alerts.findRule()
    if (rule !== null) {
      const { budgetMicroUsd: limitMicroUsd, spentMicroUsd } = total
      const budgets = [
        { window: 'total' as const, limitMicroUsd, spentMicroUsd },
        ...this.#windows.list(owner, nowMs),
      ]
      const changes = budgets.map((budget) => ({
        scope,
        keyId,
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
