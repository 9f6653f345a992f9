import type { AccountSettings } from './account-settings.ts'
import type { AccountStores } from './account-stores.ts'
import { ACCOUNT_SCOPE } from './budget-window-table.ts'
import type { ModelLimit } from './rate-limits.ts'

type OwnLimits = Pick<
  AccountSettings,
  'requestsPerMinute' | 'tokensPerMinute' | 'maxConcurrentRequests'
>

/** What keys and members cannot have where several objects admit; the field's name, or null. */
export function findUnshardable(
  limits: Partial<{ readonly [Name in keyof OwnLimits]: number | null | undefined }> & {
    readonly modelLimits?: readonly ModelLimit[] | undefined
  },
): string | null {
  const { requestsPerMinute, tokensPerMinute, maxConcurrentRequests, modelLimits } = limits
  if (typeof requestsPerMinute === 'number') return 'requests_per_minute'
  if (typeof tokensPerMinute === 'number') return 'tokens_per_minute'
  if (typeof maxConcurrentRequests === 'number') return 'max_concurrent_requests'
  return modelLimits !== undefined && modelLimits.length > 0 ? 'model_limits' : null
}

/**
 * Why an account as it is stored cannot be served by several objects; null if it can. What is rationed
 * by each request of one key, member or model, and what is paid by credits, is known to one object only.
 */
export function explainUnshardable(
  stores: AccountStores,
  settings: AccountSettings,
): string | null {
  const { tables, members, credits, modelMeters } = stores
  const { shards, modelLimits, prepaid } = settings
  if (shards === 1) return null
  for (const [name, limit] of [
    ['requests_per_minute', settings.requestsPerMinute],
    ['tokens_per_minute', settings.tokensPerMinute],
    ['max_concurrent_requests', settings.maxConcurrentRequests],
  ] as const)
    if (limit < shards) return `the account's ${name} of ${limit} is no share for each of them`
  if (prepaid || credits.hasAny()) return 'the account has credits or is prepaid'
  if (modelLimits.length > 0 || modelMeters.listSettings(ACCOUNT_SCOPE).length > 0)
    return 'the account has model_limits'
  for (const key of tables.listKeys()) {
    const found =
      key.revokedAtMs === null &&
      findUnshardable({ ...key, modelLimits: modelMeters.listSettings(key.keyId) })
    if (found) return `the key ${key.keyId} has ${found}`
  }
  for (const member of members.list()) {
    const found =
      member.removedAtMs === null &&
      findUnshardable({ ...member, modelLimits: modelMeters.listSettings(member.memberId) })
    if (found) return `the member ${member.memberId} has ${found}`
  }
  return null
}
