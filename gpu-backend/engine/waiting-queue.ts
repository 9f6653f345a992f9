import { findDisplaced, type Newcomers, type Queued } from './displacement.ts'
import { createDrainRate } from './drain-rate.ts'
import { createFairness } from './fairness.ts'
import type { Urgent } from './urgency.ts'

/** The time between two ends that is assumed until one was seen. */
const INITIAL_INTERVAL_MS = 1000

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
  /** The first `count`, most urgent levels first, then in order of arrival: whose turn it is between tenants is not in it. */
  readonly listFirst: (count: number) => readonly T[]
  readonly enter: (item: T) => void
  /** The request takes the place of one of its group that has ended, for which `noteEnd` is not called. */
  readonly takeOver: (item: T) => void
  /** Takes back a request that was admitted and lost its memory: it goes before its tenant's others. */
  readonly reenter: (item: T) => void
  /** For requests that found no places: milliseconds after which a retry finds `count` more. */
  readonly promisePlacesMs: (count: number) => number
  /** Whose turn it is, of those that `isHeld` does not tell to wait; null when there is none. */
  readonly next: (standing: Standing<T>, isHeld: (item: T) => boolean) => T | null
  /** Takes it out for its first or a further run. */
  readonly admit: (item: T) => void
  /** Takes a request out before its turn; false when it does not wait. */
  readonly remove: (item: T) => boolean
  /** See there. */
  readonly findDisplaced: (newcomers: Newcomers) => readonly T[] | null
  /** Requests that came before `atMs`, of groups that have not begun. */
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

  function next(
    { shareOf, levelOf: levelAgainstOthers }: Standing<T>,
    isHeld: (item: T) => boolean,
  ): T | null {
    const heads = listHeads(isHeld).map((entry) => ({
      entry,
      level: levelAgainstOthers(entry.item),
    }))
    const most = Math.min(...heads.map(({ level }) => level))
    const urgent = heads.filter(({ level }) => level === most).map(({ entry }) => entry)
    return fairness.pickNext(urgent, shareOf)?.item ?? null
  }

  /** Of each tenant who goes first among its own: the most urgent by tier and age, then who lost its memory, then who came first. */
  function listHeads(isHeld: (item: T) => boolean): readonly Entry<T>[] {
    const heads = new Map<string, { entry: Entry<T>; level: number }>()
    for (const entry of entries) {
      if (isHeld(entry.item)) continue
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

  return {
    size: () => entries.length,
    listFirst: (count) => sortWaiting(entries, levelOf).slice(0, count),
    enter(item) {
      const hasWaiting = entries.some(({ tenant }) => tenant === item.tenant)
      fairness.enter(item.tenant, hasWaiting)
      push(item, false)
    },
    takeOver: (item) => push(item, false),
    reenter: (item) => push(item, true),
    promisePlacesMs: (count) => drainRate.promisePlacesMs(nowMs(), count),
    next,
    admit(item) {
      item.group.hasBegun = true
      if (remove(item) !== null) fairness.noteAdmission(item.tenant)
    },
    remove: (item) => remove(item) !== null,
    findDisplaced: (newcomers) =>
      findDisplaced(
        entries.map(({ item }) => item),
        newcomers,
        levelOf,
      ),
    listOlderThan: (atMs) =>
      entries
        .filter(({ item }) => !item.group.hasBegun && item.arrivedAtMs < atMs)
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

function sortWaiting<T extends Queued>(
  entries: readonly Entry<T>[],
  levelOf: (urgent: Urgent) => number,
): readonly T[] {
  return entries
    .map((entry) => ({ entry, level: levelOf(entry.item) }))
    .sort((a, b) => a.level - b.level || (isBefore(a.entry, b.entry) ? -1 : 1))
    .map(({ entry }) => entry.item)
}

function isBefore<T extends Queued>(left: Entry<T>, right: Entry<T>): boolean {
  if (left.wasAdmitted !== right.wasAdmitted) return left.wasAdmitted
  return left.item.serial < right.item.serial
}
