import { z } from 'zod'
import type { AccountDescription } from '../access/account-contract.ts'
import { accountSettingsSchema, keySettingsSchema } from '../access/account-settings.ts'
import { createAccountId } from '../ids.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import { composeBudgetBody, composeWindowBodies, windowBudgetsBodySchema } from './budget-body.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'

const settings = accountSettingsSchema.shape

/** An account's limits as the API spells them. */
const limitsBodySchema = z.strictObject({
  requests_per_minute: settings.requestsPerMinute.unwrap().optional(),
  tokens_per_minute: settings.tokensPerMinute.unwrap().optional(),
  max_concurrent_requests: settings.maxConcurrentRequests.unwrap().optional(),
  budget_micro_usd: settings.budgetMicroUsd.unwrap().optional(),
  window_budgets: windowBudgetsBodySchema.optional(),
})

const accountBodySchema = limitsBodySchema.extend({
  /** Of the account's first key. */
  name: keySettingsSchema.shape.name,
})

/** `POST /admin/v1/accounts`: a new account and its first API key, which is shown this once. */
export async function createAccount(c: AppContext): Promise<Response> {
  const { name, ...limits } = parseRequest(accountBodySchema, await readBody(c))
  const account = c.var.services.account(createAccountId())
  const description = await account.configure(accountSettingsSchema.parse(readLimits(limits)))
  const created = await account.createKey(keySettingsSchema.parse({ name }))
  if (created.outcome === 'unknown_account') throw new Error('A new account is unknown to itself.')
  const body = { ...composeAccountBody(description), api_key: created.key, key_id: created.keyId }
  return c.json(body, 201)
}

/** `GET /admin/v1/accounts/{id}`. */
export async function getAccount(c: AppContext): Promise<Response> {
  return c.json(composeAccountBody(await requireAccount(c)))
}

/** `PATCH /admin/v1/accounts/{id}`: changes the limits that are named, from the next request on. */
export async function updateAccount(c: AppContext): Promise<Response> {
  const limits = readLimits(parseRequest(limitsBodySchema, await readBody(c)))
  const current = await requireAccount(c)
  const changed = accountSettingsSchema.parse({ ...current.settings, ...limits })
  const account = c.var.services.account(current.accountId)
  return c.json(composeAccountBody(await account.configure(changed)))
}

async function readBody(c: AppContext) {
  return (await readJsonBody(c.req.raw, c.var.services.config.MAX_BODY_BYTES)).value
}

function readLimits(body: z.output<typeof limitsBodySchema>) {
  const limits = {
    requestsPerMinute: body.requests_per_minute,
    tokensPerMinute: body.tokens_per_minute,
    maxConcurrentRequests: body.max_concurrent_requests,
    budgetMicroUsd: body.budget_micro_usd,
    windowBudgets: body.window_budgets,
  }
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined))
}

function composeAccountBody(account: AccountDescription) {
  return {
    id: account.accountId,
    object: 'account',
    created_at_ms: account.createdAtMs,
    requests_per_minute: account.settings.requestsPerMinute,
    tokens_per_minute: account.settings.tokensPerMinute,
    max_concurrent_requests: account.settings.maxConcurrentRequests,
    budget: composeBudgetBody(account.budget),
    window_budgets: composeWindowBodies(account.windows, account.budget),
    open_reservation_count: account.openReservationCount,
    outbox_count: account.outboxCount,
    last_alarm_error: account.lastAlarmError,
    counters: account.counters,
  }
}
