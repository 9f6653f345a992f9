import { createDrainRate } from './drain-rate.ts'
import { createFairness } from './fairness.ts'
import { sortYielding, type Urgent } from './urgency.ts'

/** The time between two ends that is assumed until one was seen. */
const INITIAL_INTERVAL_MS = 1000

/** What the queue needs to know of a request. */
export interface Queued extends Urgent {
  readonly tenant: string
}

/** Who waits for KV memory: more urgent levels first, within a level fair between tenants, in order of arrival within a tenant. */
export interface WaitingQueue<T extends Queued> {
  readonly size: () => number
  readonly enter: (item: T) => void
  /** Takes back a request that was admitted and lost its memory: it goes before its level's others. */
  readonly reenter: (item: T) => void
  /** For a request that found no place: milliseconds after which a retry finds one. */
  readonly promisePlaceMs: () => number
  /** Whose turn it is; null when nobody waits. */
  readonly next: () => T | null
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
  /** Tokens of the tenant's prompt that have to be computed. */
  readonly chargePrompt: (tenant: string, tokenCount: number) => void
  /** A token was sampled for the tenant. */
  readonly chargeToken: (tenant: string) => void
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
  readonly nowMs: () => number
  readonly levelOf: (urgent: Urgent) => number
}

export function createWaitingQueue<T extends Queued>(
  options: WaitingQueueOptions,
): WaitingQueue<T> {
  const { maxLiveCount, nowMs, levelOf } = options
  const fairness = createFairness(maxLiveCount)
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

  function next(): T | null {
    const levels = entries.map(({ item }) => levelOf(item))
    const most = Math.min(...levels)
    const urgent = entries.filter((_, index) => levels[index] === most)
    const preempted = urgent.filter((entry) => entry.wasAdmitted).map(({ item }) => item)
    return sortYielding(preempted, levelOf).at(-1) ?? fairness.pickNext(urgent)?.item ?? null
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
      fairness.enter(item.tenant)
      push(item, false)
    },
    reenter: (item) => push(item, true),
    promisePlaceMs: () => drainRate.promisePlaceMs(nowMs()),
    next,
    admit(item) {
      if (remove(item)?.wasAdmitted === false) fairness.noteAdmission(item.tenant)
    },
    remove: (item) => remove(item) !== null,
    findDisplaced,
    listOlderThan: (atMs) =>
      entries
        .filter(({ item, wasAdmitted }) => !wasAdmitted && item.arrivedAtMs < atMs)
        .map(({ item }) => item),
    chargePrompt: fairness.chargeInput,
    chargeToken: (tenant) => fairness.chargeOutput(tenant, 1),
    noteEnd(tenant) {
      fairness.leave(tenant)
      drainRate.noteEnd(nowMs())
    },
  }
}
