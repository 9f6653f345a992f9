import type { AdmitRequest, AdmitResult } from './account-contract.ts'
import { LASTING_MS } from './admission.ts'
import { namedModels } from './settlement.ts'
import { isMoreUrgent } from './tier.ts'
import { createBucket, refillBucket, type TokenBucket, takeFromBucket } from './token-bucket.ts'

/** Of so many keys something is remembered; the oldest go first. */
const KEPT_KEY_COUNT = 10_000
/** So many refusals of each. */
const KEPT_REFUSAL_COUNT = 16
/** So often in a second the object is asked all the same: whoever is no flood sees what the operator changes at once. */
const ASKS_PER_SECOND = 20

/** Who asks. */
export interface Caller {
  readonly accountId: string
  readonly keyHash: string
}

type Request = Pick<
  AdmitRequest,
  | 'keyHash'
  | 'model'
  | 'adapters'
  | 'otherModels'
  | 'tier'
  | 'worstCaseMicroUsd'
  | 'worstCaseTokenCount'
  | 'idempotency'
  | 'cache'
>

const UNKNOWN = 'unknown_key'

/** What a refusal says of other requests of its key. */
interface Verdict {
  readonly standsForMs: number
  /** Whether a request is refused for the same reason. */
  readonly covers: (request: Request) => boolean
  /** Also where an earlier answer would be given again. */
  readonly isOfKey?: true
}

interface Remembered extends Verdict {
  readonly refusal: AdmitResult
  /** Before the object decided, by this isolate's clock: its refusal stands at least from here. */
  readonly askedAtMs: number
}

/** Of one key. */
interface Known {
  readonly refusals: readonly Remembered[]
  /** Of asking all the same: when the second began, and how often since. */
  secondAtMs: number
  askCount: number
}

interface FloodShieldOptions {
  /** Of one key. */
  readonly freeCallsPerMinute: number
  readonly asksPerSecond?: number
}

/**
 * Spares an account's object the requests of a flood. An isolate remembers what the object refused, as
 * long as that is certain to stand whatever ends meanwhile, and refuses by itself what asks for at least
 * as much. Nothing is refused that the object would let in, but for what the operator has changed: a
 * flood learns of that within a second. One isolate's; bounded.
 */
export class FloodShield {
  readonly #known = new Map<string, Known>()
  readonly #freeCalls = new Map<string, TokenBucket>()
  /** Of keys and of accounts: requests that this isolate has under way. */
  readonly #openCounts = new Map<string, number>()
  readonly #freeCallsPerMinute: number
  readonly #asksPerSecond: number

  constructor({ freeCallsPerMinute, asksPerSecond = ASKS_PER_SECOND }: FloodShieldOptions) {
    this.#freeCallsPerMinute = freeCallsPerMinute
    this.#asksPerSecond = asksPerSecond
  }

  /** The refusal that the object would give, or null: it has to be asked. */
  recall(request: Request, nowMs: number): AdmitResult | null {
    const { keyHash } = request
    const found = this.#findStanding(keyHash, nowMs, (each) => each.covers(request))
    if (found === null) return null
    const mayBeRepeated = request.idempotency !== undefined && found.isOfKey !== true
    if (mayBeRepeated && this.takeFreeCall(keyHash, nowMs) === null) return null
    return this.#mayAsk(keyHash, nowMs) ? null : shorten(found.refusal, nowMs - found.askedAtMs)
  }

  /** Whether the object would not know the key. */
  isUnknown(keyHash: string, nowMs: number): boolean {
    const found = this.#findStanding(keyHash, nowMs, (each) => each.refusal.outcome === UNKNOWN)
    return found !== null && !this.#mayAsk(keyHash, nowMs)
  }

  /** A request was admitted. Returns how to say that it is about to be settled: until then the object counts it too. */
  open({ accountId, keyHash }: Caller): () => void {
    let isOpen = true
    for (const scope of [keyHash, accountId])
      this.#openCounts.set(scope, this.#countOpen(scope) + 1)
    return () => {
      if (!isOpen) return
      isOpen = false
      for (const scope of [keyHash, accountId]) {
        const count = this.#countOpen(scope) - 1
        if (count > 0) this.#openCounts.set(scope, count)
        else this.#openCounts.delete(scope)
      }
    }
  }

  #countOpen(scope: string): number {
    return this.#openCounts.get(scope) ?? 0
  }

  /** Remembers what the object answered. `atMs`: just before it was asked. */
  note(
    request: Request,
    result: AdmitResult,
    { accountId, atMs: askedAtMs }: { readonly accountId: string; readonly atMs: number },
  ): void {
    const { keyHash } = request
    const verdict =
      result.outcome === 'too_many_at_once'
        ? this.#judgeCrowd(result, request, accountId)
        : judge(result, request)
    const known = this.#known.get(keyHash)
    if (verdict === null) {
      if (result.outcome !== 'admitted' || known === undefined) return
      const refusals = known.refusals.filter((each) => !each.covers(request))
      this.#known.set(keyHash, { ...known, refusals })
      return
    }
    const standing = known?.refusals.filter((each) => isStanding(each, askedAtMs)) ?? []
    const refusals = [{ ...verdict, refusal: result, askedAtMs }, ...standing]
    setBounded(this.#known, keyHash, {
      ...(known ?? { secondAtMs: 0, askCount: 0 }),
      refusals: refusals.slice(0, KEPT_REFUSAL_COUNT),
    })
  }

  noteUnknown({ accountId, keyHash }: Caller, atMs: number): void {
    const request = { keyHash, model: '', worstCaseMicroUsd: 0, worstCaseTokenCount: 0 }
    this.note(request, { outcome: UNKNOWN }, { accountId, atMs })
  }

  /** As many as are under way here are under way in the object. Of members and models it is not known here. */
  #judgeCrowd(
    { scope, model, limit, tier, isShare }: Extract<AdmitResult, { outcome: 'too_many_at_once' }>,
    refused: Request,
    accountId: string,
  ): Verdict | null {
    if (scope === 'member' || model !== null || isShare) return null
    const counted = scope === 'key' ? refused.keyHash : accountId
    const isOf = (request: Request) => tier === undefined || request.tier === refused.tier
    const covers = (request: Request) => isOf(request) && this.#countOpen(counted) >= limit
    return { standsForMs: LASTING_MS, covers }
  }

  /** Counts a call that costs nothing. Null: it may go on; else when the next may. */
  takeFreeCall(keyHash: string, nowMs: number): number | null {
    const limit = this.#freeCallsPerMinute
    const before = this.#freeCalls.get(keyHash) ?? createBucket(limit, nowMs)
    const bucket = refillBucket(before, limit, nowMs)
    const take = takeFromBucket(bucket, limit, 1)
    setBounded(this.#freeCalls, keyHash, take.outcome === 'taken' ? take.bucket : bucket)
    return take.outcome === 'taken' ? null : take.retryAfterMs
  }

  #findStanding(
    keyHash: string,
    nowMs: number,
    isMeant: (refusal: Remembered) => boolean,
  ): Remembered | null {
    const refusals = this.#known.get(keyHash)?.refusals ?? []
    return refusals.find((each) => isStanding(each, nowMs) && isMeant(each)) ?? null
  }

  #mayAsk(keyHash: string, nowMs: number): boolean {
    const known = this.#known.get(keyHash)
    if (known === undefined) return true
    if (nowMs >= known.secondAtMs + 1_000) {
      known.secondAtMs = nowMs
      known.askCount = 0
    }
    known.askCount += 1
    return known.askCount <= this.#asksPerSecond
  }
}

function isStanding({ askedAtMs, standsForMs }: Remembered, nowMs: number): boolean {
  return nowMs < askedAtMs + standsForMs
}

/** What a refusal tells of other requests; null where it tells nothing that is certain, and for no refusal. */
function judge(
  result: AdmitResult,
  { worstCaseMicroUsd, worstCaseTokenCount }: Request,
): Verdict | null {
  const names = (model: string) => (request: Request) => namedModels(request).includes(model)
  switch (result.outcome) {
    case 'unknown_key':
    case 'insufficient_scope':
      return { standsForMs: LASTING_MS, covers: () => true, isOfKey: true }
    case 'model_not_allowed':
      return { standsForMs: LASTING_MS, covers: names(result.model) }
    case 'tier_not_allowed': {
      const { keyTier } = result
      const covers = ({ tier }: Request) => tier !== undefined && isMoreUrgent(tier, keyTier)
      return { standsForMs: LASTING_MS, covers }
    }
    case 'rate_limited': {
      const { model, what, standsForMs } = result
      const isOf = model === null ? () => true : names(model)
      const least = what === 'tokens' ? worstCaseTokenCount : 0
      return { standsForMs, covers: (each) => isOf(each) && countTokens(each) >= least }
    }
    case 'over_budget':
    case 'over_balance': {
      const { standsForMs } = result
      return { standsForMs, covers: (each) => countMicroUsd(each) >= worstCaseMicroUsd }
    }
    default:
      return null
  }
}

/** An answer from the cache costs nothing, and whether there is one only the object knows. */
const countTokens = ({ cache, worstCaseTokenCount }: Request) =>
  cache === undefined ? worstCaseTokenCount : 0
const countMicroUsd = ({ cache, worstCaseMicroUsd }: Request) =>
  cache === undefined ? worstCaseMicroUsd : 0

/** The refusal as it reads so much later. */
function shorten(refusal: AdmitResult, byMs: number): AdmitResult {
  if (refusal.outcome !== 'rate_limited') return refusal
  const { limits } = refusal
  const rest = (ms: number) => Math.max(0, ms - byMs)
  return {
    ...refusal,
    retryAfterMs: Math.max(1, rest(refusal.retryAfterMs)),
    limits: {
      ...limits,
      requestResetMs: rest(limits.requestResetMs),
      tokenResetMs: rest(limits.tokenResetMs),
    },
  }
}

function setBounded<T>(map: Map<string, T>, key: string, value: T): void {
  map.delete(key)
  if (map.size >= KEPT_KEY_COUNT) {
    const { value: oldest } = map.keys().next()
    if (oldest !== undefined) map.delete(oldest)
  }
  map.set(key, value)
}
