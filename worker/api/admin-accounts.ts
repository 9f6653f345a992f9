import { z } from 'zod'
import type { AccountDescription } from '../access/account-contract.ts'
import { accountSettingsSchema, keySettingsSchema } from '../access/account-settings.ts'
import { deriveAlertSecret } from '../access/alert-client.ts'
import { explainWebhookUrl } from '../access/webhook-url.ts'
import { ApiError } from '../errors.ts'
import { createAccountId } from '../ids.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import {
  budgetSchema,
  composeBudgetBody,
  composeWindowBodies,
  windowBudgetSchema,
  windowBudgetsBodySchema,
} from './budget-body.ts'
import { balanceFields, composeBalanceBody } from './credit-body.ts'
import { composeModelLimits, modelLimitSchema, modelLimitsBodySchema } from './model-limit-body.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'
import { requireShardable } from './shard-settings.ts'

const settings = accountSettingsSchema.shape

const SHARDS =
  'Objects that serve the account, each with a share of its rates and places. Keys and members then have no limits of their own but budgets, and the account no `model_limits` or credits.'

const TIER_PERCENTS =
  'How much of `max_concurrent_requests` may be under way, of whatever tier, for one more of this tier to be let in.'

/** An account's limits as the API spells them. */
export const limitsBodySchema = z.strictObject({
  requests_per_minute: settings.requestsPerMinute.unwrap().optional(),
  tokens_per_minute: settings.tokensPerMinute.unwrap().optional(),
  max_concurrent_requests: settings.maxConcurrentRequests.unwrap().optional(),
  model_limits: modelLimitsBodySchema.optional().describe('In place of those there were.'),
  budget_micro_usd: settings.budgetMicroUsd.unwrap().optional(),
  window_budgets: windowBudgetsBodySchema.optional(),
  prepaid: settings.prepaid.unwrap().optional(),
  alerts: settings.alerts.unwrap().optional(),
  tier_percents: settings.tierPercents.unwrap().optional().describe(TIER_PERCENTS),
  shards: settings.shards.unwrap().optional().describe(SHARDS),
})

export const accountBodySchema = limitsBodySchema.extend({
  name: keySettingsSchema.shape.name.describe('Of the first key.'),
})

export const accountSchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('account'),
    created_at_ms: z.int(),
    requests_per_minute: z.int(),
    tokens_per_minute: z.int(),
    max_concurrent_requests: z.int(),
    model_limits: z.array(modelLimitSchema),
    tier_percents: settings.tierPercents.unwrap().describe(TIER_PERCENTS),
    shards: settings.shards.unwrap().describe(SHARDS),
    budget: budgetSchema,
    window_budgets: z.array(windowBudgetSchema),
    ...balanceFields,
    alerts: settings.alerts
      .unwrap()
      .unwrap()
      .extend({ secret: z.string().describe('Signs the webhooks.') })
      .nullable(),
    open_reservation_count: z.int(),
    outbox_count: z.int().describe('Records that are not in D1 yet.'),
    last_alarm_error: z.string().nullable(),
    counters: z.strictObject({ swept: z.int(), released: z.int(), clamped: z.int() }),
  })
  .meta({ id: 'Account' })

export const createdAccountSchema = accountSchema
  .extend({ key_id: z.string(), api_key: z.string().describe('Shown this once.') })
  .meta({ id: 'CreatedAccount' })

export const alertListSchema = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(
      z.strictObject({
        id: z.string(),
        object: z.literal('alert'),
        created_at_ms: z.int(),
        scope: z.enum(['key', 'member', 'account']),
        key_id: z.string().nullable(),
        member_id: z.string().nullable(),
        window: z.enum(['total', 'day', 'week', 'month', 'rolling']),
        percent: z.int(),
        limit_micro_usd: z.int(),
        spent_micro_usd: z.int(),
        attempt_count: z.int(),
        delivered_at_ms: z.int().nullable(),
        next_attempt_at_ms: z.int().nullable(),
      }),
    ),
  })
  .meta({ id: 'AlertList' })

/** `POST /admin/v1/accounts`: a new account and its first API key, which is shown this once. */
export async function createAccount(c: AppContext): Promise<Response> {
  const { name, ...limits } = parseRequest(accountBodySchema, await readBody(c))
  requireCallable(c, limits)
  const accountId = createAccountId()
  const chosen = accountSettingsSchema.parse(readLimits(limits))
  await requireShardable(c, accountId, chosen)
  const account = c.var.services.account(accountId)
  const description = await account.configure(chosen)
  const created = await account.createKey(keySettingsSchema.parse({ name }))
  if (created.outcome !== 'created') throw new Error('A new account is unknown to itself.')
  const shown = await composeAccountBody(c, description)
  const body: z.input<typeof createdAccountSchema> = {
    ...shown,
    api_key: created.key,
    key_id: created.keyId,
  }
  return c.json(body, 201)
}

/** `GET /admin/v1/accounts/{id}`. */
export async function getAccount(c: AppContext): Promise<Response> {
  return c.json(await composeAccountBody(c, await requireAccount(c)))
}

/** `PATCH /admin/v1/accounts/{id}`: changes the limits that are named, from the next request on. */
export async function updateAccount(c: AppContext): Promise<Response> {
  const body = parseRequest(limitsBodySchema, await readBody(c))
  requireCallable(c, body)
  const limits = readLimits(body)
  const current = await requireAccount(c)
  const changed = accountSettingsSchema.parse({ ...current.settings, ...limits })
  await requireShardable(c, current.accountId, changed)
  const account = c.var.services.account(current.accountId)
  return c.json(await composeAccountBody(c, await account.configure(changed)))
}

/** `GET /admin/v1/accounts/{id}/alerts`: the newest 100, delivered or not. */
export async function listAlerts(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  const alerts = await c.var.services.account(accountId).listAlerts()
  const body: z.input<typeof alertListSchema> = {
    object: 'list',
    data: alerts.map((alert) => ({
      id: alert.alertId,
      object: 'alert',
      created_at_ms: alert.createdAtMs,
      scope: alert.scope,
      key_id: alert.keyId,
      member_id: alert.memberId,
      window: alert.window,
      percent: alert.percent,
      limit_micro_usd: alert.limitMicroUsd,
      spent_micro_usd: alert.spentMicroUsd,
      attempt_count: alert.attemptCount,
      delivered_at_ms: alert.deliveredAtMs,
      next_attempt_at_ms: alert.dueAtMs,
    })),
  }
  return c.json(body)
}

async function readBody(c: AppContext) {
  return (await readJsonBody(c.req.raw, c.var.services.config)).value
}

/** Whether the gateway may call the webhook that is named, if one is. */
function requireCallable(c: AppContext, { alerts }: z.output<typeof limitsBodySchema>): void {
  const allowsLoopback = c.var.services.config.WEBHOOK_LOOPBACK
  const fault = alerts ? explainWebhookUrl(alerts.url, { allowsLoopback }) : null
  if (fault === null) return
  const param = 'alerts.url'
  throw new ApiError('invalid_request', { message: `${param}: ${fault}`, param })
}

function readLimits(body: z.output<typeof limitsBodySchema>) {
  const limits = {
    requestsPerMinute: body.requests_per_minute,
    tokensPerMinute: body.tokens_per_minute,
    maxConcurrentRequests: body.max_concurrent_requests,
    modelLimits: body.model_limits,
    budgetMicroUsd: body.budget_micro_usd,
    windowBudgets: body.window_budgets,
    prepaid: body.prepaid,
    alerts: body.alerts,
    tierPercents: body.tier_percents,
    shards: body.shards,
  }
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined))
}

async function composeAccountBody(
  c: AppContext,
  account: AccountDescription,
): Promise<z.input<typeof accountSchema>> {
  const { alerts } = account.settings
  const { KEY_CHECKSUM_SECRET } = c.var.services.config
  return {
    id: account.accountId,
    object: 'account',
    created_at_ms: account.createdAtMs,
    requests_per_minute: account.settings.requestsPerMinute,
    tokens_per_minute: account.settings.tokensPerMinute,
    max_concurrent_requests: account.settings.maxConcurrentRequests,
    model_limits: composeModelLimits(account.modelLimits),
    tier_percents: account.settings.tierPercents,
    shards: account.settings.shards,
    budget: composeBudgetBody(account.budget),
    window_budgets: composeWindowBodies(account.windows, account.budget),
    ...composeBalanceBody(account.credit),
    alerts: alerts && {
      ...alerts,
      secret: await deriveAlertSecret(account.accountId, KEY_CHECKSUM_SECRET),
    },
    open_reservation_count: account.openReservationCount,
    outbox_count: account.outboxCount,
    last_alarm_error: account.lastAlarmError,
    counters: account.counters,
  }
}
