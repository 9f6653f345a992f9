import { z } from 'zod'
import type { LimitScope } from './budget.ts'
import type { BudgetWindow } from './budget-window.ts'

/** When and whom to tell that a budget is being used up. Whether the URL may be called is checked apart. */
export const alertRuleSchema = z.strictObject({
  url: z.string().min(1).max(2_000),
  /** Shares of a budget that are told when they are reached, percent. */
  percents: z.array(z.int().min(1).max(100)).min(1).max(10),
})

export type AlertRule = z.infer<typeof alertRuleSchema>

/** A budget of which a share was reached. */
export interface Alert {
  readonly alertId: string
  readonly createdAtMs: number
  readonly scope: LimitScope
  /** Null but for a key's budgets. */
  readonly keyId: string | null
  /** Null but for a member's budgets. */
  readonly memberId: string | null
  readonly window: 'total' | BudgetWindow
  readonly percent: number
  readonly limitMicroUsd: number
  readonly spentMicroUsd: number
}

/** An alert on its way. */
export interface StoredAlert extends Alert {
  /** When it is sent next; null when it was delivered or given up. */
  readonly dueAtMs: number | null
  readonly attemptCount: number
  readonly deliveredAtMs: number | null
}

/** A budget before and after a fee. */
export interface BudgetChange extends Pick<Alert, 'scope' | 'keyId' | 'memberId' | 'window'> {
  readonly limitMicroUsd: number | null
  readonly spentBeforeMicroUsd: number
  readonly spentMicroUsd: number
}

/** The alerts that one settlement calls for. */
export function planAlerts(
  rule: AlertRule,
  changes: readonly BudgetChange[],
  { nowMs, createId }: { readonly nowMs: number; readonly createId: () => string },
): Alert[] {
  return changes.flatMap((change) => {
    const { scope, keyId, memberId, window, limitMicroUsd, spentMicroUsd } = change
    if (limitMicroUsd === null) return []
    const told = { scope, keyId, memberId, window, limitMicroUsd, spentMicroUsd }
    return findReachedPercents(rule.percents, change).map((percent) => ({
      alertId: createId(),
      createdAtMs: nowMs,
      percent,
      ...told,
    }))
  })
}

/**
 * The shares that a fee reached: each once, because what is spent only grows until its window begins
 * again (in a rolling window, until it falls below the share).
 */
function findReachedPercents(
  percents: readonly number[],
  { limitMicroUsd, spentBeforeMicroUsd, spentMicroUsd }: BudgetChange,
): number[] {
  if (limitMicroUsd === null || limitMicroUsd === 0) return []
  const limit = BigInt(limitMicroUsd)
  const isReached = (spent: number, percent: number) =>
    BigInt(spent) * 100n >= limit * BigInt(percent)
  return [...new Set(percents)].filter(
    (percent) => isReached(spentMicroUsd, percent) && !isReached(spentBeforeMicroUsd, percent),
  )
}

const FIRST_RETRY_MS = 10_000
const MAX_RETRY_MS = 3_600_000
/** For a day and a half, about. */
const MAX_ALERT_ATTEMPTS = 40

/** When an alert is sent again that failed so often; null when it is given up. */
export function planRetry(attemptCount: number, nowMs: number): number | null {
  if (attemptCount >= MAX_ALERT_ATTEMPTS) return null
  return nowMs + Math.min(MAX_RETRY_MS, FIRST_RETRY_MS * 2 ** (attemptCount - 1))
}
