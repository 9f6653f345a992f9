import type { AccountDescription } from '../access/account-contract.ts'
import type { AccountSettings } from '../access/account-settings.ts'
import { findUnshardable } from '../access/shardable.ts'
import { ApiError } from '../errors.ts'
import type { AppContext } from './app-context.ts'

/** Throws for settings by which an account would have several shards and cannot. */
export async function requireShardable(
  c: AppContext,
  accountId: string,
  settings: AccountSettings,
): Promise<void> {
  if (settings.shards === 1) return
  const fault = await c.var.services.account(accountId).explainUnshardable(settings)
  if (fault !== null)
    throw new ApiError('invalid_request', {
      message: `shards: cannot be ${settings.shards}, as ${fault}`,
      param: 'shards',
    })
}

/** Throws for limits that a key or member of an account with several shards cannot have. */
export function requireShardableLimits(
  { settings: { shards } }: AccountDescription,
  limits: Parameters<typeof findUnshardable>[0],
): void {
  const param = shards === 1 ? null : findUnshardable(limits)
  if (param === null) return
  const message = `${param}: not in an account with ${shards} shards, of which none sees all requests`
  throw new ApiError('invalid_request', { message, param })
}
