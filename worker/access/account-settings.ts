import { z } from 'zod'
import { alertRuleSchema } from './alert.ts'
import { windowBudgetsSchema } from './budget-window.ts'
import {
  concurrencySchema,
  modelLimitsSchema,
  modelNameSchema,
  rateLimitsShape,
  rateSchema,
} from './rate-limits.ts'
import { tierPercentsSchema, tierSchema } from './tier.ts'

const budgetSchema = z.int().min(0).nullable()

/** How an account rations what its meter lets through. */
export const accountRulesSchema = z.strictObject({
  tierPercents: tierPercentsSchema.prefault({}),
  /** Objects that serve it; more than one only where `explainUnshardable` allows it. */
  shards: z.int().min(1).max(16).default(1),
})

export type AccountRules = z.infer<typeof accountRulesSchema>

/** How a key's requests are rationed besides its meter. */
export const keyRulesSchema = z.strictObject({
  /** The most urgent tier that its requests may have, and the one they have if they name none. */
  tier: tierSchema.default('standard'),
})

export type KeyRules = z.infer<typeof keyRulesSchema>

/** What holds for all keys of an account together. */
export const accountSettingsSchema = z.strictObject({
  requestsPerMinute: rateSchema.default(3_000),
  /** Counts the worst case at admission; what was not used is put back at settlement. */
  tokensPerMinute: rateSchema.default(20_000_000),
  maxConcurrentRequests: concurrencySchema.default(256),
  modelLimits: modelLimitsSchema.default([]),
  /** What may ever be spent. Null: no limit. Lowering it below what is spent admits nothing more. */
  budgetMicroUsd: budgetSchema.default(null),
  /** Beside `budgetMicroUsd`; a new window begins at zero. */
  windowBudgets: windowBudgetsSchema.default([]),
  /** Requests that the balance of credits does not cover are refused. */
  prepaid: z.boolean().default(false),
  /** Null: nobody is told. */
  alerts: alertRuleSchema.nullable().default(null),
  ...accountRulesSchema.shape,
})

export type AccountSettings = z.infer<typeof accountSettingsSchema>

/** What the account's meter is made from. */
export type AccountLimits = Omit<
  AccountSettings,
  'modelLimits' | 'windowBudgets' | 'alerts' | 'prepaid' | keyof AccountRules
>

/** What a key may be used for: to have text made, to read records, to read receipts, … */
const COMMON_SCOPES = ['inference', 'usage:read', 'receipts:read'] as const
/** … and to see or change what the account has its text made of, which a key has only if it is named. */
const NAMED_SCOPES = ['adapters:read', 'adapters:write'] as const

const keyScopeSchema = z.enum([...COMMON_SCOPES, ...NAMED_SCOPES])

export type KeyScope = z.infer<typeof keyScopeSchema>

/** Whether a key of these scopes has one; null: those that are common. */
export function hasScope(scopes: readonly KeyScope[] | null, needed: KeyScope): boolean {
  return (scopes ?? COMMON_SCOPES).some((scope) => scope === needed)
}

/** What holds for all keys of one member, beside the account's limits. Null: only the account's. */
export const memberSettingsSchema = z.strictObject({
  name: z.string().min(1).max(100),
  ...rateLimitsShape,
  modelLimits: modelLimitsSchema.default([]),
  budgetMicroUsd: budgetSchema.default(null),
  windowBudgets: windowBudgetsSchema.default([]),
})

export type MemberSettings = z.infer<typeof memberSettingsSchema>

/** What holds for one key, beside the limits of its member and account. Null: only those. */
export const keySettingsSchema = z.strictObject({
  name: z.string().min(1).max(100),
  /** Null: the key does not expire. */
  expiresAtMs: z.int().min(0).nullable().default(null),
  /** Null: all but those that have to be named. */
  scopes: z.array(keyScopeSchema).max(keyScopeSchema.options.length).nullable().default(null),
  /** The models it may use, as callers name them. Null: all. */
  models: z.array(modelNameSchema).max(1_000).nullable().default(null),
  ...rateLimitsShape,
  modelLimits: modelLimitsSchema.default([]),
  budgetMicroUsd: budgetSchema.default(null),
  windowBudgets: windowBudgetsSchema.default([]),
  /** The member whose key it is, for ever. Null: it is the account's own. */
  memberId: z.string().max(100).nullable().default(null),
  ...keyRulesSchema.shape,
})

export type KeySettings = z.infer<typeof keySettingsSchema>
