import type { KeySummary } from '../access/account-contract.ts'
import type { AppContext } from './app-context.ts'
import { composeBudgetBody, composeWindowBodies } from './budget-body.ts'
import { composeBalanceBody } from './credit-body.ts'
import { describeCaller } from './describe-caller.ts'
import { setRateHeaders } from './rate-headers.ts'

/** `GET /v1/key`: the limits and budgets of the key in use, and what is left of them. */
export async function getKey(c: AppContext): Promise<Response> {
  const { accountId, key, limits, accountBudget, accountWindows, credit } = await describeCaller(c)
  setRateHeaders(c.var.answerHeaders, limits)
  return c.json({
    ...composeKeyBody(key),
    account_id: accountId,
    account_budget: composeBudgetBody(accountBudget),
    account_window_budgets: composeWindowBodies(accountWindows, accountBudget),
    account_credit: composeBalanceBody(credit),
    limits: {
      requests_per_minute: limits.requestLimit,
      requests_remaining: limits.requestsRemaining,
      tokens_per_minute: limits.tokenLimit,
      tokens_remaining: limits.tokensRemaining,
    },
  })
}

/** A key as the API spells it; never the key itself. */
export function composeKeyBody(key: KeySummary) {
  return {
    id: key.keyId,
    object: 'api_key',
    name: key.name,
    start: key.start,
    created_at_ms: key.createdAtMs,
    expires_at_ms: key.expiresAtMs,
    revoked_at_ms: key.revokedAtMs,
    last_used_at_ms: key.lastUsedAtMs,
    models: key.models,
    scopes: key.scopes,
    budget: composeBudgetBody(key.budget),
    window_budgets: composeWindowBodies(key.windows, key.budget),
  }
}
