import type { KeySettings } from './account-settings.ts'
import { type AccountStores, setModelLimits } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import { changeLimits } from './meter.ts'

/** What of a key's settings is to be another; the others stay. */
export type KeyChanges = {
  readonly [Name in keyof Omit<KeySettings, 'memberId'>]?: KeySettings[Name] | undefined
}

/**
 * Changes a key, from the next request on; what it has spent and its buckets hold stays. Synchronous,
 * and to run as one transaction.
 */
export function changeKey(
  stores: AccountStores,
  key: KeyRow,
  { changes, nowMs }: { readonly changes: KeyChanges; readonly nowMs: number },
): void {
  const { tables, keyDetails, windows, rules, reservations } = stores
  const { keyId } = key
  const { name = key.name, expiresAtMs = key.expiresAtMs, models = key.models } = changes
  tables.updateKey(keyId, { name, expiresAtMs, models })
  if (changes.scopes !== undefined) keyDetails.setScopes(keyId, changes.scopes)
  if (changes.windowBudgets !== undefined) windows.replace(keyId, changes.windowBudgets, nowMs)
  if (changes.modelLimits !== undefined)
    setModelLimits(stores, keyId, { modelLimits: changes.modelLimits, nowMs })
  if (changes.tier !== undefined)
    rules.setForKey(keyId, { ...rules.ofKey(keyId), tier: changes.tier })
  const {
    requestsPerMinute = key.requestsPerMinute,
    tokensPerMinute = key.tokensPerMinute,
    maxConcurrentRequests = key.maxConcurrentRequests,
    budgetMicroUsd = key.budgetMicroUsd,
  } = changes
  const limits = { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd }
  const { reservedTokenCount: heldTokenCount } = reservations.sum(keyId)
  const updated = tables.findKeyById(keyId) ?? key
  tables.updateKeyMeter(keyId, changeLimits(updated, limits, { nowMs, heldTokenCount }))
}
