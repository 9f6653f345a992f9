import { z } from 'zod'
import { type KeySettings, keySettingsSchema } from '../access/account-settings.ts'
import type { KeyChanges } from '../access/change-key.ts'
import { ApiError } from '../errors.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import { windowBudgetsBodySchema } from './budget-body.ts'
import { apiKeySchema, composeKeyBody } from './key.ts'
import { modelLimitsBodySchema } from './model-limit-body.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'
import { requireShardableLimits } from './shard-settings.ts'

const settings = keySettingsSchema.shape

const keyShape = {
  name: settings.name,
  expires_at_ms: settings.expiresAtMs,
  models: settings.models,
  scopes: settings.scopes,
  requests_per_minute: settings.requestsPerMinute,
  tokens_per_minute: settings.tokensPerMinute,
  max_concurrent_requests: settings.maxConcurrentRequests,
  model_limits: modelLimitsBodySchema.default([]),
  budget_micro_usd: settings.budgetMicroUsd,
  window_budgets: windowBudgetsBodySchema.default([]),
  member_id: settings.memberId.describe('Whose key it is, for ever; null: the account’s own.'),
  tier: settings.tier.describe(
    'The most urgent tier of its requests, and that of those that name none.',
  ),
}

/** A key's settings as the API spells them. */
export const keyBodySchema = z.strictObject(keyShape).transform(
  (body): KeySettings => ({
    name: body.name,
    expiresAtMs: body.expires_at_ms,
    models: body.models,
    scopes: body.scopes,
    requestsPerMinute: body.requests_per_minute,
    tokensPerMinute: body.tokens_per_minute,
    maxConcurrentRequests: body.max_concurrent_requests,
    modelLimits: body.model_limits,
    budgetMicroUsd: body.budget_micro_usd,
    windowBudgets: body.window_budgets,
    memberId: body.member_id,
    tier: body.tier,
  }),
)

/** Some of them: what is absent stays as it is. */
export const keyChangesBodySchema = z
  .strictObject({
    name: keyShape.name.optional(),
    expires_at_ms: keyShape.expires_at_ms.unwrap().optional(),
    models: keyShape.models.unwrap().optional(),
    scopes: keyShape.scopes.unwrap().optional(),
    requests_per_minute: keyShape.requests_per_minute.unwrap().optional(),
    tokens_per_minute: keyShape.tokens_per_minute.unwrap().optional(),
    max_concurrent_requests: keyShape.max_concurrent_requests.unwrap().optional(),
    budget_micro_usd: keyShape.budget_micro_usd.unwrap().optional(),
    window_budgets: windowBudgetsBodySchema.optional(),
    model_limits: modelLimitsBodySchema.optional(),
    tier: settings.tier.unwrap().optional(),
  })
  .transform(
    (body): KeyChanges => ({
      name: body.name,
      expiresAtMs: body.expires_at_ms,
      models: body.models,
      scopes: body.scopes,
      requestsPerMinute: body.requests_per_minute,
      tokensPerMinute: body.tokens_per_minute,
      maxConcurrentRequests: body.max_concurrent_requests,
      modelLimits: body.model_limits,
      budgetMicroUsd: body.budget_micro_usd,
      windowBudgets: body.window_budgets,
      tier: body.tier,
    }),
  )

export const createdKeySchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('api_key'),
    account_id: z.string(),
    start: z.string(),
    api_key: z.string().describe('Shown this once.'),
  })
  .meta({ id: 'CreatedKey' })

export const rotatedKeySchema = createdKeySchema
  .extend({ previous_valid_until_ms: z.int().describe('Until when the old secret holds.') })
  .meta({ id: 'RotatedKey' })

export const keyListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(apiKeySchema) })
  .meta({ id: 'KeyList' })

export const revokedKeySchema = z
  .strictObject({ id: z.string(), object: z.literal('api_key'), deleted: z.literal(true) })
  .meta({ id: 'RevokedKey' })

/** `POST /admin/v1/accounts/{id}/keys`: a new API key, which is shown this once. */
export async function createKey(c: AppContext): Promise<Response> {
  const body = await readJsonBody(c.req.raw, c.var.services.config)
  const keySettings = parseRequest(keyBodySchema, body.value)
  const account = await requireAccount(c)
  const { accountId } = account
  requireShardableLimits(account, keySettings)
  const created = await c.var.services.account(accountId).createKey(keySettings)
  if (created.outcome === 'unknown_account') throw new Error(`${accountId} is unknown to itself.`)
  if (created.outcome === 'unknown_member')
    throw new ApiError('invalid_request', {
      message: 'member_id: the account has no such member',
      param: 'member_id',
    })
  const { keyId, key, start } = created
  return c.json({ id: keyId, object: 'api_key', account_id: accountId, start, api_key: key }, 201)
}

const MAX_GRACE_MS = 90 * 86_400_000

export const rotateBodySchema = z.strictObject({
  grace_ms: z
    .int()
    .min(0)
    .max(MAX_GRACE_MS)
    .default(86_400_000)
    .describe('How long the old secret still holds, milliseconds.'),
})

/** `POST /admin/v1/accounts/{id}/keys/{key id}/rotate`: a new secret for the same key, shown this once. */
export async function rotateKey(c: AppContext): Promise<Response> {
  const body = await readJsonBody(c.req.raw, c.var.services.config)
  const { grace_ms: graceMs } = parseRequest(rotateBodySchema, body.value)
  const { accountId } = await requireAccount(c)
  const keyId = c.req.param('keyId') ?? ''
  const rotated = await c.var.services.account(accountId).rotateKey(keyId, graceMs)
  if (rotated.outcome === 'unknown_key')
    throw new ApiError('not_found', { message: 'The account has no such key in use.' })
  return c.json({
    id: keyId,
    object: 'api_key',
    account_id: accountId,
    start: rotated.start,
    api_key: rotated.key,
    previous_valid_until_ms: rotated.previousValidUntilMs,
  })
}

/** `GET /admin/v1/accounts/{id}/keys`: all keys, revoked ones too. */
export async function listKeys(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  const keys = await c.var.services.account(accountId).listKeys()
  return c.json({ object: 'list', data: keys.map(composeKeyBody) })
}

/** `PATCH /admin/v1/accounts/{id}/keys/{key id}`: changes what is named, from the next request on. */
export async function changeKey(c: AppContext): Promise<Response> {
  const body = await readJsonBody(c.req.raw, c.var.services.config)
  const changes = parseRequest(keyChangesBodySchema, body.value)
  const account = await requireAccount(c)
  const { accountId } = account
  requireShardableLimits(account, changes)
  const keyId = c.req.param('keyId') ?? ''
  const changed = await c.var.services.account(accountId).changeKey(keyId, changes)
  if (changed === null)
    throw new ApiError('not_found', { message: 'The account has no such key in use.' })
  return c.json(composeKeyBody(changed))
}

/** `DELETE /admin/v1/accounts/{id}/keys/{key id}`: refused from the next request on. */
export async function revokeKey(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  const keyId = c.req.param('keyId') ?? ''
  const isKnown = await c.var.services.account(accountId).revokeKey(keyId)
  if (!isKnown) throw new ApiError('not_found', { message: 'The account has no such key.' })
  return c.json({ id: keyId, object: 'api_key', deleted: true })
}
