import { z } from 'zod'

const DAY_MS = 86_400_000
export const MIN_ROLLING_MS = 1_000
export const MAX_ROLLING_MS = 92 * DAY_MS

/** Of one key, member or account. */
export const MAX_WINDOW_BUDGETS = 4
export const EACH_WINDOW_ONCE = 'must name each window once'

export function nameEachWindowOnce(budgets: readonly { readonly window: string }[]): boolean {
  return new Set(budgets.map(({ window }) => window)).size === budgets.length
}

const limitSchema = z.int().min(0)

/** A budget that comes back: with the UTC day, week (Monday) or month, or spend by spend. */
const windowBudgetSchema = z.discriminatedUnion('window', [
  z.strictObject({ window: z.enum(['day', 'week', 'month']), limitMicroUsd: limitSchema }),
  z.strictObject({
    window: z.literal('rolling'),
    limitMicroUsd: limitSchema,
    /** A spend counts until this long after it, milliseconds. */
    durationMs: z.int().min(MIN_ROLLING_MS).max(MAX_ROLLING_MS),
  }),
])

export const windowBudgetsSchema = z
  .array(windowBudgetSchema)
  .max(MAX_WINDOW_BUDGETS)
  .refine(nameEachWindowOnce, EACH_WINDOW_ONCE)

export type WindowBudgetSettings = z.infer<typeof windowBudgetSchema>
export type BudgetWindow = WindowBudgetSettings['window']

/** A window's budget as it stands; what is reserved is the scope's, whatever the window. */
export interface WindowSpending {
  readonly window: BudgetWindow
  /** Null but for `rolling`. */
  readonly durationMs: number | null
  readonly limitMicroUsd: number
  /** Settled in the window. A fee belongs to the window in which it was settled. */
  readonly spentMicroUsd: number
  /** When the window ends, and what is spent begins at zero again; null for `rolling`. */
  readonly resetsAtMs: number | null
}

/** The first millisecond of the UTC day, week or month that holds `nowMs`. */
export function startOfWindow(window: Exclude<BudgetWindow, 'rolling'>, nowMs: number): number {
  const dayStartMs = nowMs - (((nowMs % DAY_MS) + DAY_MS) % DAY_MS)
  const date = new Date(dayStartMs)
  switch (window) {
    case 'day':
      return dayStartMs
    case 'week':
      return dayStartMs - ((date.getUTCDay() + 6) % 7) * DAY_MS
    case 'month':
      return Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1)
  }
}

/** The first millisecond of the next one. */
export function endOfWindow(window: Exclude<BudgetWindow, 'rolling'>, nowMs: number): number {
  const startMs = startOfWindow(window, nowMs)
  if (window !== 'month') return startMs + (window === 'day' ? 1 : 7) * DAY_MS
  const date = new Date(startMs)
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1)
}

/** When the oldest spends that add up to `neededMicroUsd` have left a rolling window; null if none do. */
export function findRollingRelief(
  spends: Iterable<{ readonly atMs: number; readonly microUsd: number }>,
  neededMicroUsd: number,
  durationMs: number,
): number | null {
  let freedMicroUsd = 0
  for (const { atMs, microUsd } of spends) {
    freedMicroUsd += microUsd
    if (freedMicroUsd >= neededMicroUsd) return atMs + durationMs
  }
  return null
}
