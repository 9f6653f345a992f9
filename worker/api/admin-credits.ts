import { z } from 'zod'
import { type Credit, creditGrantSchema } from '../access/credit.ts'
import { ApiError } from '../errors.ts'
import { requireAccount } from './account-parameter.ts'
import type { AppContext } from './app-context.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'

const grant = creditGrantSchema.shape

/** A credit as the API spells it. */
const creditBodySchema = z.strictObject({
  /** The operator's own: asked for again, the credit is not granted twice. */
  id: grant.creditId,
  amount_micro_usd: grant.amountMicroUsd,
  /** Null: it does not expire. */
  expires_at_ms: grant.expiresAtMs,
  reason: grant.reason,
})

/** `POST /admin/v1/accounts/{id}/credits`: grants a credit once; 201 the first time, then 200. */
export async function grantCredit(c: AppContext): Promise<Response> {
  const json = await readJsonBody(c.req.raw, c.var.services.config)
  const body = parseRequest(creditBodySchema, json.value)
  const { accountId } = await requireAccount(c)
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
  return c.json({ object: 'list', data: credits.map(composeCreditBody) })
}

function composeCreditBody(credit: Credit) {
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
