import type { Tier } from '../../protocol/backend.ts'
import { usageLeafSchema } from '../../protocol/usage-leaf.ts'
import type { AdmitRequest, AdmitResult } from './account-contract.ts'
import { fitsBudget } from './budget.ts'
import type { WindowSpending } from './budget-window.ts'
import {
  budgetOf,
  type Held,
  type Meter,
  type MeterTake,
  snapshotLimits,
  takeFromMeter,
} from './meter.ts'
import { isMoreUrgent, shareForTier, type TierPercents } from './tier.ts'

/** The stored state that an admission depends on. */
export interface AdmissionState {
  readonly account: Meter
  readonly accountHeld: Held
  readonly key: Meter
  readonly keyHeld: Held
  /** Budgets that come back; absent: none. */
  readonly accountWindows?: readonly WindowSpending[]
  readonly keyWindows?: readonly WindowSpending[]
  /** What is left of the credits of an account that pays in advance; absent or null: it does not. */
  readonly balanceMicroUsd?: number | null
  /** Null: the key may use all. */
  readonly allowedModels: readonly string[] | null
  readonly keyTier: Tier
  readonly tierPercents: TierPercents
}

type Admitted = Extract<AdmitResult, { outcome: 'admitted' }>

export type Admission =
  /** Both meters as they are after it; to be stored with the reservation in one transaction. */
  | (Admitted & { readonly account: Meter; readonly key: Meter })
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
  const { model, adapters = [], otherModels = [] } = request
  const named = [model, ...adapters, ...otherModels]
  const forbidden = named.find((name) => state.allowedModels?.includes(name) === false)
  if (forbidden !== undefined) return { outcome: 'model_not_allowed', model: forbidden }
  const { keyTier } = state
  const tier = request.tier ?? keyTier
  if (isMoreUrgent(tier, keyTier)) return { outcome: 'tier_not_allowed', keyTier }

  const scopes = [
    { scope: 'key', meter: state.key, held: state.keyHeld, windows: state.keyWindows ?? [] },
    {
      scope: 'account',
      meter: state.account,
      held: state.accountHeld,
      windows: state.accountWindows ?? [],
    },
  ] as const
  for (const { scope, meter, held, windows } of scopes) {
    const total = { window: 'total' as const, resetsAtMs: null, ...budgetOf(meter, held) }
    const { reservedMicroUsd } = held
    for (const budget of [total, ...windows.map((each) => ({ ...each, reservedMicroUsd }))]) {
      const { window, resetsAtMs, limitMicroUsd, spentMicroUsd } = budget
      if (limitMicroUsd === null || fitsBudget(budget, request.worstCaseMicroUsd)) continue
      const used = { limitMicroUsd, spentMicroUsd, reservedMicroUsd }
      return { outcome: 'over_budget', scope, window, resetsAtMs, ...used }
    }
  }
  const { reservedMicroUsd } = state.accountHeld
  const balanceMicroUsd = state.balanceMicroUsd ?? null
  if (balanceMicroUsd !== null && reservedMicroUsd + request.worstCaseMicroUsd > balanceMicroUsd)
    return { outcome: 'over_balance', balanceMicroUsd, reservedMicroUsd }
  for (const { meter, held } of scopes) {
    const limit = meter.maxConcurrentRequests
    if (limit !== null && held.openCount >= limit) return { outcome: 'too_many_at_once', limit }
  }
  const { maxConcurrentRequests } = state.account
  if (maxConcurrentRequests !== null) {
    const limit = shareForTier(maxConcurrentRequests, tier, state.tierPercents)
    if (state.accountHeld.openCount >= limit) return { outcome: 'too_many_at_once', limit, tier }
  }

  const key = takeFromMeter(state.key, request.worstCaseTokenCount, nowMs)
  if (key.outcome === 'refused') return rateLimited(state, key, nowMs)
  const account = takeFromMeter(state.account, request.worstCaseTokenCount, nowMs)
  if (account.outcome === 'refused') return rateLimited(state, account, nowMs)
  const limits = snapshotLimits(account.meter, key.meter, nowMs)
  return { outcome: 'admitted', limits, tier, account: account.meter, key: key.meter }
}

function rateLimited(
  { account, key }: AdmissionState,
  { what, retryAfterMs }: Extract<MeterTake, { outcome: 'refused' }>,
  nowMs: number,
): Admission {
  const limits = snapshotLimits(account, key, nowMs)
  return { outcome: 'rate_limited', what, retryAfterMs, limits }
}

function requireRecordable({ requestId, worstCaseMicroUsd, worstCaseTokenCount }: AdmitRequest) {
  if (!usageLeafSchema.shape.requestId.safeParse(requestId).success)
    throw new RangeError(`${requestId} is no request id.`)
  for (const [name, value] of Object.entries({ worstCaseMicroUsd, worstCaseTokenCount })) {
    if (!Number.isSafeInteger(value) || value < 0)
      throw new RangeError(`${name} of ${requestId} is ${value}.`)
  }
}
