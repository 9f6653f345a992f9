import { createDrainRate } from './drain-rate.ts'
import { createFairness } from './fairness.ts'
import { sortYielding, type Urgent } from './urgency.ts'

/** The time between two ends that is assumed until one was seen. */
const INITIAL_INTERVAL_MS = 1000

/** What the queue needs to know of a request. */
export interface Queued extends Urgent {
  readonly tenant: string
}

/** What tenants have of the engine now. */
export interface Standing<T> {
  /** Of places and KV memory. */
  readonly shareOf: (tenant: string) => number
  /** How urgent a request is against other tenants'. */
  readonly levelOf: (item: T) => number
}

/** Who waits for a place and KV memory: more urgent levels first, within a level fair between tenants, in order of arrival within a tenant. */
export interface WaitingQueue<T extends Queued> {
  readonly size: () => number
  readonly enter: (item: T) => void
  /** Takes back a request that was admitted and lost its memory: it goes before its tenant's others. */
  readonly reenter: (item: T) => void
  /** For a request that found no place: milliseconds after which a retry finds one. */
  readonly promisePlaceMs: () => number
  /** Whose turn it is; null when nobody waits. */
  readonly next: (standing: Standing<T>) => T | null
  /** Takes it out for its first or a further run. */
  readonly admit: (item: T) => void
  /** Takes a request out before its turn; false when it does not wait. */
  readonly remove: (item: T) => boolean
  /**
   * For a newcomer to a full queue: who should leave to make place, so that nobody fills the queue
   * for the others. The last of the tenant that has most waiting, if that is two more than the
   * newcomer's tenant has; else a less urgent one of the newcomer's own. Null: the newcomer.
   */
  readonly findDisplaced: (newcomer: Queued) => T | null
  /** Requests that came before `atMs` and were never admitted. */
  readonly listOlderThan: (atMs: number) => readonly T[]
  /** A chunk of the tenant's prompt was computed; `tokenCount` of it for the first time. */
  readonly chargePrompt: (tenant: string, tokenCount: number) => void
  /** A token was sampled for the tenant. */
  readonly chargeToken: (tenant: string) => void
  /** What a tenant with a live request was charged, in weighted tokens: whose is less goes first. */
  readonly usedBy: (tenant: string) => number
  /** How many chunks of others' prompts were computed since the tenant's latest. */
  readonly chunksSince: (tenant: string) => number
  /** Tenants of requests that wait or run. */
  readonly tenantCount: () => number
  /** A request that entered has ended, wherever it was. */
  readonly noteEnd: (tenant: string) => void
}

interface Entry<T> {
  readonly item: T
  readonly tenant: string
  readonly enteredAt: number
  readonly wasAdmitted: boolean
}

export interface WaitingQueueOptions {
  /** Requests that wait or run at most; the owner refuses more. */
  readonly maxLiveCount: number
  /** See `createFairness`. */
  readonly burstTokens: number
  readonly nowMs: () => number
  readonly levelOf: (urgent: Urgent) => number
}

export function createWaitingQueue<T extends Queued>(
  options: WaitingQueueOptions,
): WaitingQueue<T> {
  const { maxLiveCount, burstTokens, nowMs, levelOf } = options
  const fairness = createFairness({ maxPassedOverCount: maxLiveCount, burstTokens })
  const drainRate = createDrainRate(maxLiveCount, INITIAL_INTERVAL_MS)
  const entries: Entry<T>[] = []

  function push(item: T, wasAdmitted: boolean): void {
    if (entries.length === 0) drainRate.noteBusy(nowMs())
    const enteredAt = fairness.admittedCount()
    entries.push({ item, tenant: item.tenant, enteredAt, wasAdmitted })
  }

  function remove(item: T): Entry<T> | null {
    const index = entries.findIndex((entry) => entry.item === item)
    const [entry] = index < 0 ? [] : entries.splice(index, 1)
    if (entry !== undefined && entries.length === 0) drainRate.noteEmpty(nowMs())
    return entry ?? null
  }

  function next({ shareOf, levelOf: levelAgainstOthers }: Standing<T>): T | null {
    const heads = listHeads().map((entry) => ({ entry, level: levelAgainstOthers(entry.item) }))
    const most = Math.min(...heads.map(({ level }) => level))
    const urgent = heads.filter(({ level }) => level === most).map(({ entry }) => entry)
    return fairness.pickNext(urgent, shareOf)?.item ?? null
  }

  /** Of each tenant who goes first among its own: the most urgent by tier and age, then who lost its memory, then who came first. */
  function listHeads(): readonly Entry<T>[] {
    const heads = new Map<string, { entry: Entry<T>; level: number }>()
    for (const entry of entries) {
      const level = levelOf(entry.item)
      const head = heads.get(entry.tenant)
      if (
        head === undefined ||
        level < head.level ||
        (level === head.level && isBefore(entry, head.entry))
      ) {
        heads.set(entry.tenant, { entry, level })
      }
    }
    return Array.from(heads.values(), ({ entry }) => entry)
  }

  function findDisplaced(newcomer: Queued): T | null {
    const counts = new Map<string, number>([[newcomer.tenant, 0]])
    for (const { tenant } of entries) counts.set(tenant, (counts.get(tenant) ?? 0) + 1)
    const [[largest, most] = [newcomer.tenant, 0]] = [...counts].sort(([, a], [, b]) => b - a)
    const hasMore = most >= (counts.get(newcomer.tenant) ?? 0) + 2
    const from = hasMore ? largest : newcomer.tenant
    const fresh = entries.filter((entry) => entry.tenant === from && !entry.wasAdmitted)
    const items = fresh.map(({ item }) => item)
    const [last = null] = sortYielding(items, levelOf)
    const yields = last !== null && (hasMore || levelOf(last) > levelOf(newcomer))
    return yields ? last : null
  }

  return {
    size: () => entries.length,
    enter(item) {
      const hasWaiting = entries.some(({ tenant }) => tenant === item.tenant)
      fairness.enter(item.tenant, hasWaiting)
      push(item, false)
    },
    reenter: (item) => push(item, true),
    promisePlaceMs: () => drainRate.promisePlaceMs(nowMs()),
    next,
    admit(item) {
      if (remove(item) !== null) fairness.noteAdmission(item.tenant)
    },
    remove: (item) => remove(item) !== null,
    findDisplaced,
    listOlderThan: (atMs) =>
      entries
        .filter(({ item, wasAdmitted }) => !wasAdmitted && item.arrivedAtMs < atMs)
        .map(({ item }) => item),
    usedBy: fairness.counterOf,
    chunksSince: fairness.chunksSince,
    tenantCount: fairness.activeCount,
    chargePrompt: fairness.chargeInput,
    chargeToken: (tenant) => fairness.chargeOutput(tenant, 1),
    noteEnd(tenant) {
      fairness.leave(tenant)
      drainRate.noteEnd(nowMs())
    },
  }
}

function isBefore<T extends Queued>(left: Entry<T>, right: Entry<T>): boolean {
  if (left.wasAdmitted !== right.wasAdmitted) return left.wasAdmitted
  return left.item.serial < right.item.serial
}
