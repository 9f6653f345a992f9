import type { DescribeKeyResult } from '../access/account-contract.ts'
import { ApiError } from '../errors.ts'
import type { AppContext } from './app-context.ts'

/**
 * What the account's object knows of the caller's key. Operations that cost nothing are authenticated
 * by it; throws `invalid_api_key` for a key that does not hold any more.
 */
export async function describeCaller(
  c: AppContext,
): Promise<Extract<DescribeKeyResult, { outcome: 'key' }>> {
  const { accountId, keyHash } = c.var.caller
  const described = await c.var.services.account(accountId).describeKey(keyHash)
  if (described.outcome === 'unknown_key') throw new ApiError('invalid_api_key')
  return described
}
