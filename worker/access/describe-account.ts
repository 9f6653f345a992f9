import type { AccountDescription, KeySummary } from './account-contract.ts'
import type { AccountStores } from './account-stores.ts'
import type { AccountRow, KeyRow } from './account-tables.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import { budgetOf } from './meter.ts'

/** An account for its operator, as it stands now. */
export function describeAccount(
  { tables, reservations, windows, alerts }: AccountStores,
  account: AccountRow,
  { nowMs, lastAlarmError }: { readonly nowMs: number; readonly lastAlarmError: string | null },
): AccountDescription {
  const held = reservations.sum(null)
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
      windowBudgets: windows.listSettings(ACCOUNT_SCOPE),
      alerts: alerts.findRule(),
    },
    budget: budgetOf(account, held),
    windows: windows.list(ACCOUNT_SCOPE, nowMs),
    openReservationCount: held.openCount,
    outboxCount: tables.describePending().outboxCount,
    lastAlarmError,
    counters: tables.readCounters(),
  }
}

/** A key as its account sees it, as it stands now. */
export function summariseKey(
  { reservations, windows, keyDetails }: AccountStores,
  key: KeyRow,
  nowMs: number,
): KeySummary {
  const { keyId, name, start, createdAtMs, expiresAtMs, revokedAtMs, models } = key
  return {
    ...{ keyId, name, start, createdAtMs, expiresAtMs, revokedAtMs, models },
    ...keyDetails.find(keyId),
    budget: budgetOf(key, reservations.sum(keyId)),
    windows: windows.list(keyId, nowMs),
  }
}
