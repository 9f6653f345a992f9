import { z } from 'zod'
import type { ModelLimitState } from '../access/account-contract.ts'
import {
  concurrencySchema,
  type ModelLimit,
  modelLimitsSchema,
  modelNameSchema,
  rateSchema,
} from '../access/rate-limits.ts'
import { settingsFromBody } from './settings-from-body.ts'

export const modelLimitSchema = z
  .strictObject({
    model: z.string(),
    requests_per_minute: z.int().nullable(),
    requests_remaining: z.int().nullable(),
    tokens_per_minute: z.int().nullable(),
    tokens_remaining: z.int().nullable(),
    max_concurrent_requests: z.int().nullable(),
  })
  .meta({ id: 'ModelLimit', description: 'What one model may be used; null: no limit.' })

/** Limits of single models, as the API spells them. */
export function composeModelLimits(
  limits: readonly ModelLimitState[],
): z.input<typeof modelLimitSchema>[] {
  return limits.map((limit) => ({
    model: limit.model,
    requests_per_minute: limit.requestsPerMinute,
    requests_remaining: limit.requestsRemaining,
    tokens_per_minute: limit.tokensPerMinute,
    tokens_remaining: limit.tokensRemaining,
    max_concurrent_requests: limit.maxConcurrentRequests,
  }))
}

/** Limits of single models, as callers set them: all of them, each model once. */
export const modelLimitsBodySchema = z
  .array(
    z.strictObject({
      model: modelNameSchema.describe('As callers name it; an adapter has limits of its own.'),
      requests_per_minute: rateSchema.nullable().default(null),
      tokens_per_minute: rateSchema.nullable().default(null),
      max_concurrent_requests: concurrencySchema.nullable().default(null),
    }),
  )
  .max(100)
  .transform((bodies, ctx): ModelLimit[] => {
    const parsed = modelLimitsSchema.safeParse(bodies.map(settingsFromBody))
    if (parsed.success) return parsed.data
    for (const { message } of parsed.error.issues) ctx.addIssue({ code: 'custom', message })
    return z.NEVER
  })
