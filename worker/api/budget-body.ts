import { z } from 'zod'
import { type Budget, remainingBudget } from '../access/budget.ts'
import {
  EACH_WINDOW_ONCE,
  MAX_ROLLING_MS,
  MAX_WINDOW_BUDGETS,
  MIN_ROLLING_MS,
  nameEachWindowOnce,
  type WindowBudgetSettings,
  type WindowSpending,
} from '../access/budget-window.ts'

const budgetShape = {
  limit_micro_usd: z.int().nullable(),
  spent_micro_usd: z.int(),
  reserved_micro_usd: z.int().describe('Held for requests that run.'),
  remaining_micro_usd: z.int().nullable(),
}

export const budgetSchema = z
  .strictObject(budgetShape)
  .meta({ id: 'Budget', description: 'Micro-USD; null: no limit.' })

export const windowBudgetSchema = z
  .strictObject({
    window: z.enum(['day', 'week', 'month', 'rolling']),
    duration_ms: z.int().optional().describe('Of a rolling window.'),
    ...budgetShape,
    resets_at_ms: z.int().nullable(),
  })
  .meta({ id: 'WindowBudget', description: 'A budget that comes back; days and weeks are UTC.' })

/** A budget as the API spells it, micro-USD; `limit` and `remaining` are null where there is none. */
export function composeBudgetBody(budget: Budget): z.input<typeof budgetSchema> {
  return {
    limit_micro_usd: budget.limitMicroUsd,
    spent_micro_usd: budget.spentMicroUsd,
    reserved_micro_usd: budget.reservedMicroUsd,
    remaining_micro_usd: remainingBudget(budget),
  }
}

/** Budgets that come back, as the API spells them; what is reserved is the same for all windows. */
export function composeWindowBodies(
  windows: readonly WindowSpending[],
  { reservedMicroUsd }: Pick<Budget, 'reservedMicroUsd'>,
): z.input<typeof windowBudgetSchema>[] {
  return windows.map((budget) => ({
    window: budget.window,
    ...(budget.durationMs !== null && { duration_ms: budget.durationMs }),
    ...composeBudgetBody({ ...budget, reservedMicroUsd }),
    resets_at_ms: budget.resetsAtMs,
  }))
}

const limitSchema = z.int().min(0)

/** Budgets that come back, as callers set them: all of them, each window once. */
export const windowBudgetsBodySchema = z
  .array(
    z.discriminatedUnion('window', [
      z.strictObject({ window: z.enum(['day', 'week', 'month']), limit_micro_usd: limitSchema }),
      z.strictObject({
        window: z.literal('rolling'),
        limit_micro_usd: limitSchema,
        duration_ms: z.int().min(MIN_ROLLING_MS).max(MAX_ROLLING_MS),
      }),
    ]),
  )
  .max(MAX_WINDOW_BUDGETS)
  .refine(nameEachWindowOnce, EACH_WINDOW_ONCE)
  .transform((bodies) =>
    bodies.map((body): WindowBudgetSettings => {
      const limitMicroUsd = body.limit_micro_usd
      return body.window === 'rolling'
        ? { window: body.window, limitMicroUsd, durationMs: body.duration_ms }
        : { window: body.window, limitMicroUsd }
    }),
  )
