import { z } from 'zod'
import type { MemberSummary } from '../access/account-contract.ts'
import { type MemberSettings, memberSettingsSchema } from '../access/account-settings.ts'
import { ApiError } from '../errors.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import {
  budgetSchema,
  composeBudgetBody,
  composeWindowBodies,
  windowBudgetSchema,
  windowBudgetsBodySchema,
} from './budget-body.ts'
import { composeModelLimits, modelLimitSchema, modelLimitsBodySchema } from './model-limit-body.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'
import { requireShardableLimits } from './shard-settings.ts'

const settings = memberSettingsSchema.shape

/** A member's settings as the API spells them. */
export const memberBodySchema = z.strictObject({
  name: settings.name,
  requests_per_minute: settings.requestsPerMinute.unwrap().optional(),
  tokens_per_minute: settings.tokensPerMinute.unwrap().optional(),
  max_concurrent_requests: settings.maxConcurrentRequests.unwrap().optional(),
  model_limits: modelLimitsBodySchema.optional().describe('In place of those there were.'),
  budget_micro_usd: settings.budgetMicroUsd.unwrap().optional(),
  window_budgets: windowBudgetsBodySchema.optional(),
})

export const memberChangesSchema = memberBodySchema.partial()

export const memberSchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('member'),
    name: z.string(),
    created_at_ms: z.int(),
    removed_at_ms: z.int().nullable(),
    requests_per_minute: z.int().nullable(),
    tokens_per_minute: z.int().nullable(),
    max_concurrent_requests: z.int().nullable(),
    model_limits: z.array(modelLimitSchema),
    budget: budgetSchema,
    window_budgets: z.array(windowBudgetSchema),
  })
  .meta({ id: 'Member', description: 'Whose keys share limits and budgets; null: no limit.' })

export const memberListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(memberSchema) })
  .meta({ id: 'MemberList' })

export const removedMemberSchema = z
  .strictObject({ id: z.string(), object: z.literal('member'), deleted: z.literal(true) })
  .meta({ id: 'RemovedMember' })

/** `POST /admin/v1/accounts/{id}/members` */
export async function createMember(c: AppContext): Promise<Response> {
  const body = parseRequest(memberBodySchema, await readBody(c))
  const account = await requireAccount(c)
  const { accountId } = account
  const created = memberSettingsSchema.parse(readSettings(body))
  requireShardableLimits(account, created)
  const member = await c.var.services.account(accountId).createMember(created)
  return c.json(composeMemberBody(member), 201)
}

/** `PATCH /admin/v1/accounts/{id}/members/{member id}`: changes what is named, from the next request on. */
export async function updateMember(c: AppContext): Promise<Response> {
  const changes = readSettings(parseRequest(memberChangesSchema, await readBody(c)))
  const account = await requireAccount(c)
  const { accountId } = account
  requireShardableLimits(account, changes)
  const member = await c.var.services.account(accountId).updateMember(readMemberId(c), changes)
  if (member === null) throw unknownMember()
  return c.json(composeMemberBody(member))
}

/** `GET /admin/v1/accounts/{id}/members`: all members, removed ones too. */
export async function listMembers(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  const members = await c.var.services.account(accountId).listMembers()
  return c.json({ object: 'list', data: members.map(composeMemberBody) })
}

/** `DELETE /admin/v1/accounts/{id}/members/{member id}`: their keys are refused from the next request on. */
export async function removeMember(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  const id = readMemberId(c)
  if (!(await c.var.services.account(accountId).removeMember(id))) throw unknownMember()
  return c.json({ id, object: 'member', deleted: true })
}

async function readBody(c: AppContext) {
  return (await readJsonBody(c.req.raw, c.var.services.config)).value
}

const readMemberId = (c: AppContext) => c.req.param('memberId') ?? ''

function unknownMember(): ApiError {
  return new ApiError('not_found', { message: 'The account has no such member.' })
}

function readSettings(body: z.output<typeof memberChangesSchema>): Partial<MemberSettings> {
  const named = {
    name: body.name,
    requestsPerMinute: body.requests_per_minute,
    tokensPerMinute: body.tokens_per_minute,
    maxConcurrentRequests: body.max_concurrent_requests,
    modelLimits: body.model_limits,
    budgetMicroUsd: body.budget_micro_usd,
    windowBudgets: body.window_budgets,
  }
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== undefined))
}

/** A member as the API spells it. */
export function composeMemberBody(member: MemberSummary): z.input<typeof memberSchema> {
  return {
    id: member.memberId,
    object: 'member',
    name: member.settings.name,
    created_at_ms: member.createdAtMs,
    removed_at_ms: member.removedAtMs,
    requests_per_minute: member.settings.requestsPerMinute,
    tokens_per_minute: member.settings.tokensPerMinute,
    max_concurrent_requests: member.settings.maxConcurrentRequests,
    model_limits: composeModelLimits(member.modelLimits),
    budget: composeBudgetBody(member.budget),
    window_budgets: composeWindowBodies(member.windows, member.budget),
  }
}
