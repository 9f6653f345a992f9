import { type Budget, remainingBudget } from '../access/budget.ts'

/** A budget as the API spells it, micro-USD; `limit` and `remaining` are null where there is none. */
export function composeBudgetBody(budget: Budget) {
  return {
    limit_micro_usd: budget.limitMicroUsd,
    spent_micro_usd: budget.spentMicroUsd,
    reserved_micro_usd: budget.reservedMicroUsd,
    remaining_micro_usd: remainingBudget(budget),
  }
}
