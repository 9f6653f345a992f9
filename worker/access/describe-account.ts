import type {
  AccountDescription,
  KeySummary,
  MemberSummary,
  ModelLimitState,
} from './account-contract.ts'
import type { AccountStores } from './account-stores.ts'
import type { AccountRow, KeyRow } from './account-tables.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import type { CreditBalance } from './credit.ts'
import type { MemberRow } from './member-table.ts'
import { budgetOf, remainingRates } from './meter.ts'

/** An account for its operator, as it stands now. */
export function describeAccount(
  stores: AccountStores,
  account: AccountRow,
  { nowMs, lastAlarmError }: { readonly nowMs: number; readonly lastAlarmError: string | null },
): AccountDescription {
  const { tables, reservations, windows, alerts } = stores
  const held = reservations.sum(ACCOUNT_SCOPE)
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
      modelLimits: stores.modelMeters.listSettings(ACCOUNT_SCOPE),
      windowBudgets: windows.listSettings(ACCOUNT_SCOPE),
      prepaid: stores.credits.isPrepaid(),
      alerts: alerts.findRule(),
      ...stores.rules.ofAccount(),
    },
    budget: budgetOf(account, held),
    windows: windows.list(ACCOUNT_SCOPE, nowMs),
    modelLimits: describeModelLimits(stores, ACCOUNT_SCOPE, nowMs),
    credit: describeCredit(stores, nowMs),
    openReservationCount: held.openCount,
    outboxCount: tables.countOutbox(),
    lastAlarmError,
    counters: tables.readCounters(),
  }
}

/** What the account has left of its credits. */
export function describeCredit(
  { reservations, credits }: AccountStores,
  nowMs: number,
): CreditBalance {
  return {
    isPrepaid: credits.isPrepaid(),
    balanceMicroUsd: credits.sumLeft(nowMs),
    reservedMicroUsd: reservations.sum(ACCOUNT_SCOPE).reservedMicroUsd,
  }
}

/** A key as its account sees it, as it stands now. */
export function summariseKey(stores: AccountStores, key: KeyRow, nowMs: number): KeySummary {
  const { reservations, windows, keyDetails, rules } = stores
  const { keyId, name, start, createdAtMs, expiresAtMs, revokedAtMs, models } = key
  return {
    memberId: stores.members.findOwner(keyId),
    ...{ keyId, name, start, createdAtMs, expiresAtMs, revokedAtMs, models },
    ...keyDetails.find(keyId),
    ...rules.ofKey(keyId),
    budget: budgetOf(key, reservations.sum(keyId)),
    windows: windows.list(keyId, nowMs),
    modelLimits: describeModelLimits(stores, keyId, nowMs),
  }
}

/** A member as its account sees it, as it stands now. */
export function summariseMember(
  stores: AccountStores,
  member: MemberRow,
  nowMs: number,
): MemberSummary {
  const { reservations, windows, modelMeters } = stores
  const { memberId, createdAtMs, removedAtMs, name } = member
  const { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd } = member
  const limits = { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd }
  const modelLimits = modelMeters.listSettings(memberId)
  const windowBudgets = windows.listSettings(memberId)
  return {
    memberId,
    createdAtMs,
    removedAtMs,
    settings: { name, ...limits, modelLimits, windowBudgets },
    budget: budgetOf(member, reservations.sum(memberId)),
    windows: windows.list(memberId, nowMs),
    modelLimits: describeModelLimits(stores, memberId, nowMs),
  }
}

/** The limits of single models in a scope, and what is left of them. */
export function describeModelLimits(
  { modelMeters }: AccountStores,
  scope: string,
  nowMs: number,
): ModelLimitState[] {
  return modelMeters.list(scope).map((meter) => {
    const { model, requestsPerMinute, tokensPerMinute, maxConcurrentRequests } = meter
    return {
      ...{ model, requestsPerMinute, tokensPerMinute, maxConcurrentRequests },
      ...remainingRates(meter, nowMs),
    }
  })
}
