import { z } from 'zod'
import type { KeySummary } from '../access/account-contract.ts'
import { keySettingsSchema } from '../access/account-settings.ts'
import { composeMemberBody, memberSchema } from './admin-members.ts'
import type { AppContext } from './app-context.ts'
import {
  budgetSchema,
  composeBudgetBody,
  composeWindowBodies,
  windowBudgetSchema,
} from './budget-body.ts'
import { balanceSchema, composeBalanceBody } from './credit-body.ts'
import { describeCaller } from './describe-caller.ts'
import { composeModelLimits, modelLimitSchema } from './model-limit-body.ts'
import { setRateHeaders } from './rate-headers.ts'

export const apiKeySchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('api_key'),
    member_id: z.string().nullable().describe('Whose key it is; null: the account’s own.'),
    name: z.string(),
    start: z.string().describe('The first characters, to recognise the key by.'),
    created_at_ms: z.int(),
    expires_at_ms: z.int().nullable(),
    revoked_at_ms: z.int().nullable(),
    last_used_at_ms: z.int().nullable().describe('To the minute.'),
    models: z.array(z.string()).readonly().nullable().describe('Null: all.'),
    scopes: keySettingsSchema.shape.scopes
      .unwrap()
      .unwrap()
      .readonly()
      .nullable()
      .describe('Null: `inference`, `usage:read` and `receipts:read`.'),
    tier: keySettingsSchema.shape.tier.unwrap(),
    budget: budgetSchema,
    window_budgets: z.array(windowBudgetSchema),
    model_limits: z.array(modelLimitSchema),
  })
  .meta({ id: 'ApiKey', description: 'A key, without the key itself.' })

export const callerKeySchema = apiKeySchema
  .extend({
    account_id: z.string(),
    member: memberSchema.nullable(),
    account_budget: budgetSchema,
    account_window_budgets: z.array(windowBudgetSchema),
    account_model_limits: z.array(modelLimitSchema),
    account_credit: balanceSchema,
    limits: z.strictObject({
      requests_per_minute: z.int(),
      requests_remaining: z.int(),
      tokens_per_minute: z.int(),
      tokens_remaining: z.int(),
    }),
  })
  .meta({ id: 'CallerKey', description: 'The key in use and what is left of its limits.' })

/** `GET /v1/key`: the limits and budgets of the key in use, and what is left of them. */
export async function getKey(c: AppContext): Promise<Response> {
  const caller = await describeCaller(c)
  const { accountId, key, limits, accountBudget, accountWindows, credit } = caller
  setRateHeaders(c.var.answerHeaders, limits)
  const body: z.input<typeof callerKeySchema> = {
    ...composeKeyBody(key),
    account_id: accountId,
    member: caller.member && composeMemberBody(caller.member),
    account_budget: composeBudgetBody(accountBudget),
    account_window_budgets: composeWindowBodies(accountWindows, accountBudget),
    account_model_limits: composeModelLimits(caller.accountModelLimits),
    account_credit: composeBalanceBody(credit),
    limits: {
      requests_per_minute: limits.requestLimit,
      requests_remaining: limits.requestsRemaining,
      tokens_per_minute: limits.tokenLimit,
      tokens_remaining: limits.tokensRemaining,
    },
  }
  return c.json(body)
}

/** A key as the API spells it; never the key itself. */
export function composeKeyBody(key: KeySummary): z.input<typeof apiKeySchema> {
  return {
    id: key.keyId,
    object: 'api_key',
    member_id: key.memberId,
    name: key.name,
    start: key.start,
    created_at_ms: key.createdAtMs,
    expires_at_ms: key.expiresAtMs,
    revoked_at_ms: key.revokedAtMs,
    last_used_at_ms: key.lastUsedAtMs,
    models: key.models,
    scopes: key.scopes,
    tier: key.tier,
    budget: composeBudgetBody(key.budget),
    window_budgets: composeWindowBodies(key.windows, key.budget),
    model_limits: composeModelLimits(key.modelLimits),
  }
}
