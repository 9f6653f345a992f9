import { z } from 'zod'
import { type Budget, remainingBudget } from '../access/budget.ts'
import {
  type WindowBudgetSettings,
  type WindowSpending,
  windowBudgetsSchema,
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

/** Budgets that come back, as callers set them: all of them, each window once. */
export const windowBudgetsBodySchema = z
  .array(
    z.strictObject({
      window: z.enum(['day', 'week', 'month', 'rolling']),
      limit_micro_usd: z.int().min(0),
      duration_ms: z.int().optional(),
    }),
  )
  .transform((bodies) =>
    bodies.map(({ window, limit_micro_usd, duration_ms }) => ({
      window,
      limitMicroUsd: limit_micro_usd,
      ...(duration_ms !== undefined && { durationMs: duration_ms }),
    })),
  )
  .transform((budgets, ctx): WindowBudgetSettings[] => {
    const parsed = windowBudgetsSchema.safeParse(budgets)
    if (parsed.success) return parsed.data
    for (const { message, path } of parsed.error.issues) {
      const wirePath = path.map((part) => (part === 'durationMs' ? 'duration_ms' : part))
      ctx.addIssue({ code: 'custom', message, path: wirePath })
    }
    return z.NEVER
  })
