import type { KeySettings } from './account-settings.ts'
import { type AccountStores, setModelLimits } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import { changeLimits } from './meter.ts'

/** What of a key's settings is to be another; the others stay, as does whose key it is. */
export type KeyChanges = {
  readonly [Name in Exclude<keyof KeySettings, 'memberId'>]?: KeySettings[Name] | undefined
}

/**
 * Changes a key, from the next request on; what it has spent stays. Synchronous, and to run as one
 * transaction.
 */
export function changeKey(
  stores: AccountStores,
  key: KeyRow,
  { changes, nowMs }: { readonly changes: KeyChanges; readonly nowMs: number },
): void {
  const { tables, keyDetails, windows, rules, reservations } = stores
  const { keyId } = key
  const { name = key.name, expiresAtMs = key.expiresAtMs, models = key.models } = changes
  const { scopes, windowBudgets, modelLimits, tier } = changes
  tables.updateKey(keyId, { name, expiresAtMs, models })
  if (scopes !== undefined) keyDetails.setScopes(keyId, scopes)
  if (windowBudgets !== undefined) windows.replace(keyId, windowBudgets, nowMs)
  if (modelLimits !== undefined) setModelLimits(stores, keyId, { modelLimits, nowMs })
  if (tier !== undefined) rules.setForKey(keyId, { ...rules.ofKey(keyId), tier })
  const {
    requestsPerMinute = key.requestsPerMinute,
    tokensPerMinute = key.tokensPerMinute,
    maxConcurrentRequests = key.maxConcurrentRequests,
    budgetMicroUsd = key.budgetMicroUsd,
  } = changes
  const limits = { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd }
  const heldTokenCount = reservations.sum(keyId).reservedTokenCount
  const renamed = { ...key, name, expiresAtMs, models }
  tables.updateKeyMeter(keyId, changeLimits(renamed, limits, { nowMs, heldTokenCount }))
}
