import { z } from 'zod'
import { MAX_LIMIT_PER_MINUTE } from './token-bucket.ts'

export const rateSchema = z.int().min(1).max(MAX_LIMIT_PER_MINUTE)
export const concurrencySchema = z.int().min(1).max(10_000)

/** A model or adapter as callers name it. */
export const modelNameSchema = z.string().min(1).max(200)

/** Limits that a scope may have, of all models or of one. Null: none here. */
export const rateLimitsShape = {
  requestsPerMinute: rateSchema.nullable().default(null),
  tokensPerMinute: rateSchema.nullable().default(null),
  maxConcurrentRequests: concurrencySchema.nullable().default(null),
}

/** Of one model each, beside the limits of all together. */
export const modelLimitsSchema = z
  .array(z.strictObject({ model: modelNameSchema, ...rateLimitsShape }))
  .max(100)
  .refine(
    (limits) => new Set(limits.map(({ model }) => model)).size === limits.length,
    'must name each model once',
  )

export type ModelLimit = z.infer<typeof modelLimitsSchema>[number]
