import { z } from 'zod'
import type { CreditBalance } from '../access/credit.ts'

export const balanceFields = {
  prepaid: z.boolean().describe('Whether requests are refused that the credits do not cover.'),
  credit_balance_micro_usd: z.int(),
  credit_available_micro_usd: z
    .int()
    .describe('What the next request may cost, if the account pays in advance.'),
}

export const balanceSchema = z.strictObject(balanceFields)

/** What an account has left of its credits, as the API spells it. */
export function composeBalanceBody(credit: CreditBalance): z.input<typeof balanceSchema> {
  const { balanceMicroUsd, reservedMicroUsd } = credit
  return {
    prepaid: credit.isPrepaid,
    credit_balance_micro_usd: balanceMicroUsd,
    credit_available_micro_usd: Math.max(0, balanceMicroUsd - reservedMicroUsd),
  }
}
