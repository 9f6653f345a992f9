import type { CreditBalance } from '../access/credit.ts'

/** What an account has left of its credits, as the API spells it. */
export function composeBalanceBody(credit: CreditBalance) {
  const { balanceMicroUsd, reservedMicroUsd } = credit
  return {
    prepaid: credit.isPrepaid,
    credit_balance_micro_usd: balanceMicroUsd,
    /** What the next request may cost, if the account pays in advance. */
    credit_available_micro_usd: Math.max(0, balanceMicroUsd - reservedMicroUsd),
  }
}
