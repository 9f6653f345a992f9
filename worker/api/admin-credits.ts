import { z } from 'zod'
import { type Credit, creditGrantSchema } from '../access/credit.ts'
import { ApiError } from '../errors.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'

const grant = creditGrantSchema.shape

/** A credit as the API spells it. */
export const creditBodySchema = z.strictObject({
  id: grant.creditId.describe(
    "The operator's own: asked for again, the credit is not granted twice.",
  ),
  amount_micro_usd: grant.amountMicroUsd,
  expires_at_ms: grant.expiresAtMs.describe('Null: it does not expire.'),
  reason: grant.reason,
})

export const creditSchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('credit'),
    amount_micro_usd: z.int(),
    left_micro_usd: z.int(),
    expires_at_ms: z.int().nullable(),
    reason: z.string(),
    granted_at_ms: z.int(),
  })
  .meta({ id: 'Credit' })

export const creditListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(creditSchema) })
  .meta({ id: 'CreditList' })

/** `POST /admin/v1/accounts/{id}/credits`: grants a credit once; 201 the first time, then 200. */
export async function grantCredit(c: AppContext): Promise<Response> {
  const json = await readJsonBody(c.req.raw, c.var.services.config)
  const body = parseRequest(creditBodySchema, json.value)
  const { accountId, settings } = await requireAccount(c)
  if (settings.shards > 1)
    throw new ApiError('invalid_request', {
      message: `An account with ${settings.shards} shards cannot have credits.`,
    })
  const result = await c.var.services.account(accountId).grantCredit({
    creditId: body.id,
    amountMicroUsd: body.amount_micro_usd,
    expiresAtMs: body.expires_at_ms,
    reason: body.reason,
  })
  switch (result.outcome) {
    case 'granted':
      return c.json(composeCreditBody(result.credit), 201)
    case 'repeated':
      return c.json(composeCreditBody(result.credit))
    case 'conflict':
      throw new ApiError('idempotency_conflict', {
        message: 'id: another credit of the account has it',
        param: 'id',
      })
    case 'expired':
      throw new ApiError('invalid_request', {
        message: 'expires_at_ms: must lie in the future',
        param: 'expires_at_ms',
      })
  }
}

/** `GET /admin/v1/accounts/{id}/credits`: the newest 1,000, spent and expired ones too. */
export async function listCredits(c: AppContext): Promise<Response> {
  const { accountId } = await requireAccount(c)
  const credits = await c.var.services.account(accountId).listCredits()
  const body: z.input<typeof creditListSchema> = {
    object: 'list',
    data: credits.map(composeCreditBody),
  }
  return c.json(body)
}

function composeCreditBody(credit: Credit): z.input<typeof creditSchema> {
  return {
    id: credit.creditId,
    object: 'credit',
    amount_micro_usd: credit.amountMicroUsd,
    left_micro_usd: credit.leftMicroUsd,
    expires_at_ms: credit.expiresAtMs,
    reason: credit.reason,
    granted_at_ms: credit.grantedAtMs,
  }
}
