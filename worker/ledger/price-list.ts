import type { Price, Tariff } from '../access/pricing.ts'

/** A published price. It is never edited; a later version of the same scope replaces it. */
export interface PriceVersion extends Price {
  /** The model or adapter as callers name it; null: all that have no price of their own. */
  readonly model: string | null
  /** Null: all backends. */
  readonly backendId: string | null
  /** In force from this millisecond on. */
  readonly effectiveAtMs: number
  readonly createdAtMs: number
}

/** Versions by what they name as their model. */
export type PriceList = ReadonlyMap<string | null, readonly PriceVersion[]>

/** Versions of the configuration are below, those that the admin API makes above. */
export const LAST_CONFIG_PRICE_VERSION = 1_000_000

/**
 * How far ahead a new version must take effect. A list that is read later than that before an
 * admission therefore holds every version that can be in force then.
 */
export const PRICE_LEAD_MS = 3_600_000

/** No request is priced by a list older than this; the rest of the lead is for clocks that differ. */
export const MAX_PRICE_LIST_AGE_MS = 1_800_000

/**
 * A request is admitted by the clock of its account's object. Changes this near to the isolate's own
 * time are handed on, for that clock to choose.
 */
export const CLOCK_SPREAD_MS = 300_000

/** What a request is priced by. */
export interface PriceScope {
  /** The model as the caller names it, then, for an adapter, its base model. */
  readonly models: readonly string[]
  readonly backendId: string
  /** What the configuration sets; in force where no version is. */
  readonly configured: Price
}

/** The prices of a scope around `nowMs`. */
export function composeTariff(list: PriceList, scope: PriceScope, nowMs: number): Tariff {
  const versions = [...scope.models, null].flatMap((model) =>
    (list.get(model) ?? []).filter(
      ({ backendId }) => backendId === null || backendId === scope.backendId,
    ),
  )
  const startMs = nowMs - CLOCK_SPREAD_MS
  const changeTimes = versions
    .map(({ effectiveAtMs }) => effectiveAtMs)
    .filter((atMs) => atMs > startMs && atMs <= nowMs + CLOCK_SPREAD_MS)
    .sort((a, b) => a - b)
  const inForceAt = (atMs: number) => findInForce(versions, scope, atMs)
  return {
    price: inForceAt(startMs),
    priceChanges: [...new Set(changeTimes)].map((atMs) => ({ atMs, price: inForceAt(atMs) })),
  }
}

/**
 * The one price of a scope at a moment. The nearer name wins: the model's own before its base model's
 * before all models', and of the same model the backend's before all backends'; then the later
 * date, then the later version.
 */
function findInForce(
  versions: readonly PriceVersion[],
  { models, configured }: PriceScope,
  atMs: number,
): Price {
  let best: PriceVersion | null = null
  const rank = ({ model, backendId }: PriceVersion) =>
    2 * (model === null ? models.length : models.indexOf(model)) + (backendId === null ? 1 : 0)
  for (const version of versions) {
    if (version.effectiveAtMs > atMs) continue
    const order =
      best === null
        ? -1
        : rank(version) - rank(best) ||
          best.effectiveAtMs - version.effectiveAtMs ||
          best.version - version.version
    if (order < 0) best = version
  }
  if (best === null) return configured
  const { version, promptMicroUsdPerMillion, cachedMicroUsdPerMillion } = best
  const { completionMicroUsdPerMillion } = best
  return {
    version,
    promptMicroUsdPerMillion,
    cachedMicroUsdPerMillion,
    completionMicroUsdPerMillion,
  }
}
