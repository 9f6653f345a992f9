import type { UnshardableLimit } from '../access/account-contract.ts'
import { ApiError } from '../errors.ts'

/** For settings by which an account would have several shards and cannot. */
export function cannotShard(shards: number, reason: string): ApiError {
  const message = `shards: cannot be ${shards}, as ${reason}`
  return new ApiError('invalid_request', { message, param: 'shards' })
}

/** For a limit that a key or member of an account with several shards cannot have. */
export function unshardableLimit({ field, shards }: UnshardableLimit): ApiError {
  const message = `${field}: not in an account with ${shards} shards, of which none sees all requests`
  return new ApiError('invalid_request', { message, param: field })
}
