import type { KeySettings } from './account-settings.ts'
import type { AccountStores } from './account-stores.ts'
import type { KeyRow } from './account-tables.ts'
import { createMeter } from './meter.ts'

/** What of a key's settings is to be another; the others stay. */
export type KeyChanges = {
  readonly [Name in keyof KeySettings]?: KeySettings[Name] | undefined
}

/**
 * Changes a key, from the next request on; what it has spent stays. Under other rate limits its
 * buckets are full. Synchronous, and to run as one transaction.
 */
export function changeKey(
  { tables, keyDetails, windows, rules }: AccountStores,
  key: KeyRow,
  { changes, nowMs }: { readonly changes: KeyChanges; readonly nowMs: number },
): void {
  const { keyId, spentMicroUsd, requestLevel, tokenLevel, bucketsUpdatedAtMs } = key
  const { name = key.name, expiresAtMs = key.expiresAtMs, models = key.models } = changes
  tables.updateKey(keyId, { name, expiresAtMs, models })
  if (changes.scopes !== undefined) keyDetails.setScopes(keyId, changes.scopes)
  if (changes.windowBudgets !== undefined) windows.replace(keyId, changes.windowBudgets, nowMs)
  if (changes.tier !== undefined)
    rules.setForKey(keyId, { ...rules.ofKey(keyId), tier: changes.tier })
  const {
    requestsPerMinute = key.requestsPerMinute,
    tokensPerMinute = key.tokensPerMinute,
    maxConcurrentRequests = key.maxConcurrentRequests,
    budgetMicroUsd = key.budgetMicroUsd,
  } = changes
  const limits = { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, budgetMicroUsd }
  const hasOtherRates =
    requestsPerMinute !== key.requestsPerMinute || tokensPerMinute !== key.tokensPerMinute
  const levels = { requestLevel, tokenLevel, bucketsUpdatedAtMs }
  tables.updateKeyMeter(keyId, {
    ...createMeter(limits, nowMs),
    ...(!hasOtherRates && levels),
    spentMicroUsd,
  })
}
