/** Whose limit or budget. */
export type LimitScope = 'key' | 'member' | 'account'

/** Money that may be spent in all, what was, and what open reservations may still cost. */
export interface Budget {
  /** Null: no limit. */
  readonly limitMicroUsd: number | null
  readonly spentMicroUsd: number
  readonly reservedMicroUsd: number
}

/**
 * Whether a worst case fits into a budget. What is spent and reserved counts whole, and a fee never
 * exceeds its reservation: so as long as only what fits is reserved, no spending exceeds the limit.
 */
export function fitsBudget(budget: Budget, worstCaseMicroUsd: number): boolean {
  if (budget.limitMicroUsd === null) return true
  return budget.spentMicroUsd + budget.reservedMicroUsd + worstCaseMicroUsd <= budget.limitMicroUsd
}

/** What can be reserved now; null without a limit. Zero where the limit was lowered below. */
export function remainingBudget(budget: Budget): number | null {
  if (budget.limitMicroUsd === null) return null
  return Math.max(0, budget.limitMicroUsd - budget.spentMicroUsd - budget.reservedMicroUsd)
}
