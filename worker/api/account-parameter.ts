import type { AccountDescription } from '../access/account-contract.ts'
import { ApiError } from '../errors.ts'
import type { AppContext } from './app-context.ts'

const ACCOUNT_ID = /^acct_[0-9a-zA-Z]{1,32}$/

/** The account that an admin path names. Throws `not_found` for one that was never created. */
export async function requireAccount(c: AppContext): Promise<AccountDescription> {
  const accountId = c.req.param('accountId') ?? ''
  const description = ACCOUNT_ID.test(accountId)
    ? await c.var.services.account(accountId).describeAccount()
    : null
  if (description === null)
    throw new ApiError('not_found', { message: 'There is no such account.' })
  return description
}
