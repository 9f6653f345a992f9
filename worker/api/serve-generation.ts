import { TIER_HEADER } from '../../protocol/backend.ts'
import type { AdmitResult, LimitName } from '../access/account-contract.ts'
import type { KeptAnswer } from '../access/idempotency.ts'
import { createAccountClient } from '../dispatch/account-client.ts'
import { admitGeneration } from '../dispatch/admit-generation.ts'
import { composeCacheClaim, wantsCache } from '../dispatch/cache-claim.ts'
import { describeConcession } from '../dispatch/concession.ts'
import { findCandidates } from '../dispatch/degrade.ts'
import type { GenerationRequest } from '../dispatch/generation-request.ts'
import { relayBody } from '../dispatch/relay-body.ts'
import { relayStream } from '../dispatch/relay-stream.ts'
import { createRoute } from '../dispatch/route.ts'
import { ApiError } from '../errors.ts'
import type { AppContext } from './app-context.ts'
import { insufficientScope } from './describe-caller.ts'
import { readIdempotencyClaim } from './idempotency-header.ts'
import { DEGRADED_HEADER, setRateHeaders } from './rate-headers.ts'

/**
 * Serves a request for text: pick a backend, admit, relay, settle. The work outlives a client that
 * leaves, because what it used has to be settled.
 */
export function serveGeneration(c: AppContext, request: GenerationRequest): Promise<Response> {
  const served = serve(c, request)
  c.executionCtx.waitUntil(served.catch(() => {})) // the error handler answers it
  return served
}

async function serve(c: AppContext, request: GenerationRequest): Promise<Response> {
  const { services, caller, requestId, startedAtMs, answerHeaders } = c.var
  const { config, log } = services
  const waitUntil = (work: Promise<unknown>) => c.executionCtx.waitUntil(work)
  const idempotency = await readIdempotencyClaim(c, request)
  const isCacheable = wantsCache(request)
  const candidates = await findCandidates(services, request, waitUntil, {
    accountId: caller.accountId,
    needsFreshList: isCacheable, // an answer is found by its weights
  })
  const cache = isCacheable ? await composeCacheClaim(request, candidates[0].target) : null
  if (isCacheable) answerHeaders.set('x-tallygate-cache', 'miss')
  const { accountId } = caller
  // What the account's own object keeps by a name, it has to find again however many there are.
  const isNamed = idempotency !== null || cache !== null
  const account = createAccountClient({
    createStub: (shard) => services.account(accountId, shard),
    shard: isNamed ? 0 : services.shards.pick(accountId, requestId),
    noteShards: (shards) => services.shards.note(accountId, shards),
    renewEveryMs: config.RESERVATION_TTL_MS / 3,
    log,
  })
  const { shield, telemetry } = services
  const admission = await admitGeneration(
    { account, shield, meters: telemetry.meters },
    { requestId, request, candidates, caller, idempotency, cache },
  )
  if (admission.outcome === 'replay') {
    answerHeaders.set('idempotency-replayed', 'true')
    return giveAgain(c, admission.answer)
  }
  if (admission.outcome === 'cached') {
    setRateHeaders(answerHeaders, admission.limits)
    answerHeaders.set('x-tallygate-cache', 'hit')
    return giveAgain(c, admission.answer)
  }
  const { limits, tier } = requireAdmitted(request, admission, answerHeaders)
  setRateHeaders(answerHeaders, limits)
  answerHeaders.set(TIER_HEADER, tier)
  c.set('tier', tier)
  const timing = `auth;dur=${Date.now() - startedAtMs}`
  answerHeaders.set('server-timing', timing)
  c.set('isRelayed', true)
  const relay = request.isStream ? relayStream : relayBody
  const route = createRoute({
    candidates,
    fleet: services.fleet,
    reroute: (to) => account.reroute(requestId, to),
    now: Date.now,
  })
  const response = await relay({
    requestId,
    accountId: caller.accountId,
    startedAtMs,
    request,
    tier,
    route,
    account,
    maxUpstreamSilenceMs: config.UPSTREAM_SILENCE_MS,
    maxUpstreamAnswerMs: config.UPSTREAM_ANSWER_MS,
    clientSignal: c.req.raw.signal,
    outlivesClient: idempotency !== null,
    isKept: isNamed,
    waitUntil,
    log,
    telemetry,
    trace: c.var.trace,
  })
  const { concession } = route.current()
  if (concession !== undefined) answerHeaders.set(DEGRADED_HEADER, describeConcession(concession))
  const upstreamTiming = response.headers.get('server-timing')
  if (upstreamTiming !== null) answerHeaders.set('server-timing', `${timing}, ${upstreamTiming}`)
  return response
}

/** What was admitted; throws the ApiError of a refusal. */
function requireAdmitted(
  request: GenerationRequest,
  result: Exclude<AdmitResult, { outcome: 'replay' | 'cached' }>,
  answerHeaders: Map<string, string>,
): Extract<AdmitResult, { outcome: 'admitted' }> {
  switch (result.outcome) {
    case 'admitted':
      return result
    case 'unknown_key':
      throw new ApiError('invalid_api_key')
    case 'in_flight':
      throw new ApiError('idempotency_in_flight', { retryAfterMs: RUNNING_RETRY_AFTER_MS })
    case 'idempotency_conflict':
      throw new ApiError('idempotency_conflict', {
        message: CONFLICTS[result.why],
        param: 'Idempotency-Key',
      })
    case 'insufficient_scope':
      throw insufficientScope('inference')
    case 'model_not_allowed':
      throw new ApiError('model_not_allowed', describeForbidden(request, result.model))
    case 'tier_not_allowed':
      throw new ApiError('tier_not_allowed', {
        message: `This key's requests may be ${result.keyTier} at most.`,
        param: 'service_tier',
      })
    case 'rate_limited':
      setRateHeaders(answerHeaders, result.limits)
      throw new ApiError('rate_limit_exceeded', {
        message: `${describeLimit(result)} ${result.what} a minute is reached. Try again shortly.`,
        retryAfterMs: result.retryAfterMs,
      })
    case 'too_many_at_once':
      throw new ApiError('concurrency_exceeded', {
        message: describeConcurrency(result),
        retryAfterMs: RUNNING_RETRY_AFTER_MS,
      })
    case 'over_budget':
      throw new ApiError('budget_exceeded', { message: describeBudget(result) })
    case 'over_balance':
      throw new ApiError('budget_exceeded', { message: describeBalance(result) })
  }
}

function describeConcurrency(refused: Extract<AdmitResult, { outcome: 'too_many_at_once' }>) {
  const { tier, limit } = refused
  if (tier === undefined) return `${describeLimit(refused)} parallel requests is reached.`
  return `A ${tier} request is let in only while fewer than ${limit} requests run at the same time.`
}

function describeLimit({ scope, model, limit }: LimitName): string {
  const whose = model === null ? '' : ` for the model ${JSON.stringify(model)}`
  return `The ${scope}'s limit${whose} of ${limit}`
}

function describeForbidden(request: GenerationRequest, model: string) {
  if (model === request.model) return { param: 'model' }
  const fallback = request.degradation?.models.indexOf(model) ?? -1
  const index = request.merge?.members.findIndex(({ id }) => id === model)
  return {
    param:
      fallback === -1 ? `tallygate.adapters.${index}.id` : `tallygate.degrade.models[${fallback}]`,
    message: `This key may not use the model ${JSON.stringify(model)}.`,
  }
}

/** Nobody knows when a running request ends; about as long as a short answer takes. */
const RUNNING_RETRY_AFTER_MS = 1_000

const CONFLICTS = {
  other_request: 'The Idempotency-Key was used for a request with another body.',
  answer_not_kept:
    'The first request with this Idempotency-Key was billed, and its answer was not whole or is ' +
    'not kept any more. Send it under another key.',
}

/** An answer that was billed before. */
function giveAgain(c: AppContext, { contentType, body }: KeptAnswer): Response {
  return c.body(body.slice().buffer, 200, { 'content-type': contentType })
}

type OverBudget = Extract<AdmitResult, { outcome: 'over_budget' }>

const usd = (microUsd: number) => `${(microUsd / 1_000_000).toFixed(6)} USD`

function describeBalance(result: Extract<AdmitResult, { outcome: 'over_balance' }>): string {
  return (
    `The prepaid balance of ${usd(result.balanceMicroUsd)} does not cover this request: ` +
    `${usd(result.reservedMicroUsd)} of it are reserved by running requests.`
  )
}

function describeBudget(result: OverBudget): string {
  return (
    `The ${result.scope}'s ${WINDOW_WORDS[result.window]}budget of ${usd(result.limitMicroUsd)} does not cover this request: ` +
    `${usd(result.spentMicroUsd)} are spent and ${usd(result.reservedMicroUsd)} reserved by ` +
    `running requests.${describeReset(result)}`
  )
}

const WINDOW_WORDS = {
  total: '',
  day: 'daily ',
  week: 'weekly ',
  month: 'monthly ',
  rolling: 'rolling ',
} as const satisfies Record<OverBudget['window'], string>

function describeReset({ window, resetsAtMs }: OverBudget): string {
  if (resetsAtMs === null) return ''
  const at = new Date(resetsAtMs).toISOString()
  return window === 'rolling' ? ` Enough of it is free again at ${at}.` : ` It resets at ${at}.`
}
