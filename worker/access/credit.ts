import { z } from 'zod'

/** A million USD: sums of credits stay exact. */
const MAX_CREDIT_MICRO_USD = 1_000_000_000_000

/** Money that an account may spend before it is asked for any. */
export const creditGrantSchema = z.strictObject({
  /** The operator's own; granting it again does nothing. */
  creditId: z.string().regex(/^[\w.:-]{1,100}$/, 'must be 1 to 100 letters, digits or _ . : -'),
  amountMicroUsd: z.int().min(1).max(MAX_CREDIT_MICRO_USD),
  /** Null: it does not expire. */
  expiresAtMs: z.int().min(0).nullable().default(null),
  reason: z.string().min(1).max(500),
})

export type CreditGrant = z.infer<typeof creditGrantSchema>

export interface Credit extends CreditGrant {
  readonly leftMicroUsd: number
  readonly grantedAtMs: number
}

export type GrantResult =
  | { readonly outcome: 'granted'; readonly credit: Credit }
  /** It was granted before, just so. */
  | { readonly outcome: 'repeated'; readonly credit: Credit }
  /** Its id is another credit's. */
  | { readonly outcome: 'conflict' }
  | { readonly outcome: 'expired' }
  /** Several objects serve the account: none knows what the others spend. */
  | { readonly outcome: 'unshardable'; readonly shards: number }

/** What an account has left of its credits. */
export interface CreditBalance {
  /** Requests that the balance does not cover are refused. */
  readonly isPrepaid: boolean
  /** Of credits that have not expired. */
  readonly balanceMicroUsd: number
  /** What open reservations may still take of it. */
  readonly reservedMicroUsd: number
}

/** Whether a credit is the one that was asked for. */
export function isSameGrant(credit: Credit, grant: CreditGrant): boolean {
  return (
    credit.amountMicroUsd === grant.amountMicroUsd &&
    credit.expiresAtMs === grant.expiresAtMs &&
    credit.reason === grant.reason
  )
}
