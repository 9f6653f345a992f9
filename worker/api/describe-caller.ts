import type { DescribeKeyResult } from '../access/account-contract.ts'
import { hasScope, type KeyScope } from '../access/account-settings.ts'
import { ApiError } from '../errors.ts'
import type { AppContext } from './app-context.ts'

/**
 * What the account's object knows of the caller's key. Operations that cost nothing are authenticated
 * by it; throws `invalid_api_key` for a key that does not hold any more, and `insufficient_scope`.
 */
export async function describeCaller(
  c: AppContext,
  neededScope?: KeyScope,
): Promise<Extract<DescribeKeyResult, { outcome: 'key' }>> {
  const { accountId, keyHash } = c.var.caller
  const { config, shield, telemetry, account } = c.var.services
  const nowMs = Date.now()
  if (shield.isUnknown(keyHash, nowMs)) throw new ApiError('invalid_api_key')
  const retryAfterMs = shield.takeFreeCall(keyHash, nowMs)
  if (retryAfterMs !== null)
    throw new ApiError('rate_limit_exceeded', {
      message: `The limit of ${config.FREE_CALLS_PER_MINUTE} calls a minute that cost nothing is reached.`,
      retryAfterMs,
    })
  const described = await account(accountId).describeKey(keyHash)
  const { outcome } = described
  telemetry.meters.record('tallygate.account.calls', 1, { operation: 'describe', outcome })
  if (described.outcome === 'unknown_key') {
    shield.noteUnknown(c.var.caller, nowMs)
    throw new ApiError('invalid_api_key')
  }
  if (neededScope !== undefined && !hasScope(described.key.scopes, neededScope))
    throw insufficientScope(neededScope)
  return described
}

/** Says which scope the key lacks. */
export function insufficientScope(scope: KeyScope): ApiError {
  return new ApiError('insufficient_scope', { message: `This key lacks the scope ${scope}.` })
}
