import type { Tier } from '../../protocol/backend.ts'
import { usageLeafSchema } from '../../protocol/usage-leaf.ts'
import type { AdmitRequest, AdmitResult } from './account-contract.ts'
import { fitsBudget, type LimitScope } from './budget.ts'
import type { WindowSpending } from './budget-window.ts'
import {
  budgetOf,
  findStandingMs,
  type Held,
  type Meter,
  type MeterTake,
  type RateMeter,
  snapshotLimits,
  takeFromMeter,
} from './meter.ts'
import type { ModelMeter } from './model-meter-table.ts'
import { namedModels } from './settlement.ts'
import { isMoreUrgent, shareForTier, type TierPercents } from './tier.ts'

/** What holds for a request by its key, its member or its account. */
export interface AdmissionScope {
  readonly scope: LimitScope
  /** Where its windows and the limits of its models are kept. */
  readonly owner: string
  readonly meter: Meter
  readonly held: Held
  /** Budgets that come back. */
  readonly windows: readonly WindowSpending[]
  /** Limits of models that the request names. */
  readonly models: readonly { readonly meter: ModelMeter; readonly held: Held }[]
}

/** The stored state that an admission depends on. */
export interface AdmissionState {
  /** The narrowest first, the account's last. */
  readonly scopes: readonly AdmissionScope[]
  /** What is left of the credits of an account that pays in advance; null: it does not. */
  readonly balanceMicroUsd: number | null
  /** Null: the key may use all. */
  readonly allowedModels: readonly string[] | null
  readonly keyTier: Tier
  readonly tierPercents: TierPercents
}

/** A meter that a request is counted by. */
export interface Ration {
  readonly scope: LimitScope
  readonly owner: string
  /** Null: of all models together. */
  readonly model: string | null
  readonly meter: RateMeter
  readonly held: Held
}

/** A refusal that only the operator ends stands for so long, at the least. */
export const LASTING_MS = 60_000

type Admitted = Extract<AdmitResult, { outcome: 'admitted' }>

export type Admission =
  /** What it counts by, as that is after it; to be stored with the reservation in one transaction. */
  | (Admitted & { readonly rations: readonly Ration[] })
  /** Nothing changes. */
  | Exclude<AdmitResult, Admitted>

/**
 * Whether a request may run. Refusals that no waiting cures come first; a refused request takes
 * nothing from any bucket. Throws a RangeError for a request that could never be recorded.
 */
export function decideAdmission(
  state: AdmissionState,
  request: AdmitRequest,
  nowMs: number,
): Admission {
  requireRecordable(request)
  const forbidden = namedModels(request).find(
    (name) => state.allowedModels?.includes(name) === false,
  )
  if (forbidden !== undefined) return { outcome: 'model_not_allowed', model: forbidden }
  const { keyTier } = state
  const tier = request.tier ?? keyTier
  if (isMoreUrgent(tier, keyTier)) return { outcome: 'tier_not_allowed', keyTier }

  const overspent = findOverspent(state, request, nowMs)
  if (overspent !== null) return overspent
  const rations = state.scopes.flatMap(({ scope, owner, meter, held, models }): Ration[] => [
    { scope, owner, model: null, meter, held },
    ...models.map((each) => ({ scope, owner, model: each.meter.model, ...each })),
  ])
  return findCrowded(state, rations, tier) ?? takeRations(rations, { request, tier, nowMs })
}

/** The refusal by the first budget, or the balance, that the worst case does not fit. */
function findOverspent(
  { scopes, balanceMicroUsd }: AdmissionState,
  { worstCaseMicroUsd }: AdmitRequest,
  nowMs: number,
): Admission | null {
  const overBudget = findOverBudget(scopes, worstCaseMicroUsd, nowMs)
  if (overBudget !== null) return overBudget
  const reservedMicroUsd = scopes.at(-1)?.held.reservedMicroUsd ?? 0
  if (balanceMicroUsd === null || reservedMicroUsd + worstCaseMicroUsd <= balanceMicroUsd)
    return null
  const standsForMs = worstCaseMicroUsd > balanceMicroUsd ? LASTING_MS : 0
  return { outcome: 'over_balance', balanceMicroUsd, reservedMicroUsd, standsForMs }
}

export type OverBudget = Extract<AdmitResult, { outcome: 'over_budget' }>

/** The refusal by the first budget that an amount does not fit. */
export function findOverBudget(
  scopes: readonly AdmissionScope[],
  worstCaseMicroUsd: number,
  nowMs: number,
): OverBudget | null {
  for (const { scope, meter, held, windows } of scopes) {
    const total = { window: 'total' as const, resetsAtMs: null, ...budgetOf(meter, held) }
    const { reservedMicroUsd } = held
    for (const budget of [total, ...windows.map((each) => ({ ...each, reservedMicroUsd }))]) {
      const { window, resetsAtMs, limitMicroUsd, spentMicroUsd } = budget
      if (limitMicroUsd === null || fitsBudget(budget, worstCaseMicroUsd)) continue
      const used = { limitMicroUsd, spentMicroUsd, reservedMicroUsd }
      // What is reserved may be given back; what is spent may not.
      const isSpent = spentMicroUsd + worstCaseMicroUsd > limitMicroUsd
      const lastsMs = window === 'total' ? LASTING_MS : (resetsAtMs ?? nowMs) - nowMs
      const standsForMs = isSpent ? lastsMs : 0
      return { outcome: 'over_budget', scope, window, resetsAtMs, ...used, standsForMs }
    }
  }
  return null
}

/** What the tightest budget has left; null: there is none. */
export function leftOfBudgets(scopes: readonly AdmissionScope[]): number | null {
  const lefts = scopes.flatMap(({ meter, held, windows }) =>
    [budgetOf(meter, held), ...windows].flatMap(({ limitMicroUsd, spentMicroUsd }) =>
      limitMicroUsd === null ? [] : [limitMicroUsd - spentMicroUsd - held.reservedMicroUsd],
    ),
  )
  return lefts.length === 0 ? null : Math.min(...lefts)
}

/** The refusal by the first limit of parallel requests that is reached. */
function findCrowded(
  { scopes, tierPercents }: AdmissionState,
  rations: readonly Ration[],
  tier: Tier,
): Admission | null {
  for (const { scope, model, meter, held } of rations) {
    const limit = meter.maxConcurrentRequests
    if (limit !== null && held.openCount >= limit)
      return { outcome: 'too_many_at_once', scope, model, limit }
  }
  const account = scopes.at(-1)
  const maxConcurrentRequests = account?.meter.maxConcurrentRequests ?? null
  if (account === undefined || maxConcurrentRequests === null) return null
  const limit = shareForTier(maxConcurrentRequests, tier, tierPercents)
  if (account.held.openCount < limit) return null
  return { outcome: 'too_many_at_once', scope: 'account', model: null, limit, tier }
}

/** Takes the request and its tokens from every meter; or from none, and names the one that is the longest in the way. */
function takeRations(
  rations: readonly Ration[],
  {
    request,
    tier,
    nowMs,
  }: { readonly request: AdmitRequest; readonly tier: Tier; readonly nowMs: number },
): Admission {
  const taken: Ration[] = []
  let worst: { readonly by: Ration; readonly take: Refused } | null = null
  for (const ration of rations) {
    const take = takeFromMeter(ration.meter, request.worstCaseTokenCount, nowMs)
    if (take.outcome === 'taken') taken.push({ ...ration, meter: take.meter })
    else if (worst === null || take.retryAfterMs > worst.take.retryAfterMs)
      worst = { by: ration, take }
  }
  const snapshot = (after: readonly Ration[]) =>
    snapshotLimits(
      after.map(({ meter }) => meter),
      nowMs,
    )
  if (worst === null) return { outcome: 'admitted', limits: snapshot(taken), tier, rations: taken }
  const { by, take } = worst
  const { what, retryAfterMs, limit } = take
  const { scope, model, meter, held } = by
  const heldTokenCount = held.reservedTokenCount
  const asked = { tokenCount: request.worstCaseTokenCount, heldTokenCount, nowMs }
  return {
    ...{ outcome: 'rate_limited', what, scope, model, limit, retryAfterMs },
    standsForMs: findStandingMs(meter, take, asked),
    limits: snapshot(rations),
  }
}

/**
 * An admission by one of several objects, each of which has a share of the account's rates. What would
 * leave a debt is refused, as all of them may be asked at once; what one refuses another may let in.
 */
export function confineToShare(
  admission: Admission,
  scopes: readonly AdmissionScope[],
  { worstCaseTokenCount }: AdmitRequest,
): Admission {
  if (admission.outcome === 'rate_limited') return { ...admission, standsForMs: 0 }
  if (admission.outcome === 'too_many_at_once') return { ...admission, isShare: true }
  const limit = scopes.at(-1)?.meter.tokensPerMinute ?? null
  if (admission.outcome !== 'admitted' || limit === null || worstCaseTokenCount <= limit)
    return admission
  return {
    ...{ outcome: 'rate_limited', what: 'tokens', scope: 'account', model: null, limit },
    ...{ retryAfterMs: LASTING_MS, standsForMs: LASTING_MS, limits: admission.limits },
  }
}

type Refused = Extract<MeterTake<RateMeter>, { outcome: 'refused' }>

function requireRecordable({ requestId, worstCaseMicroUsd, worstCaseTokenCount }: AdmitRequest) {
  if (!usageLeafSchema.shape.requestId.safeParse(requestId).success)
    throw new RangeError(`${requestId} is no request id.`)
  for (const [name, value] of Object.entries({ worstCaseMicroUsd, worstCaseTokenCount })) {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError(`${name} of ${requestId} is ${value}.`)
  }
}
