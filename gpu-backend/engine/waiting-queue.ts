import { createDrainRate } from './drain-rate.ts'
import type { EngineRequest } from './engine-port.ts'
import { createFairness } from './fairness.ts'

/** The time between two ends that is assumed until one was seen. */
const INITIAL_INTERVAL_MS = 1000

export interface WaitingRequest {
  readonly request: EngineRequest
  readonly tenant: string
  readonly enteredAt: number
}

/** Who waits for KV memory: in order of arrival within a tenant, fair between tenants. */
export interface WaitingQueue {
  readonly size: () => number
  readonly enter: (request: EngineRequest) => void
  /** For a request that found no place: milliseconds after which a retry finds one. */
  readonly promisePlaceMs: () => number
  /** Whose turn it is; null when nobody waits. */
  readonly next: () => WaitingRequest | null
  readonly admit: (entry: WaitingRequest) => void
  /** Takes a request out before its turn; null when it does not wait. */
  readonly remove: (id: string) => WaitingRequest | null
  /** A token was sampled for the tenant. */
  readonly chargeToken: (tenant: string) => void
  /** A request that entered has ended, wherever it was. */
  readonly noteEnd: (tenant: string) => void
}

/** `maxLiveCount`: requests that wait or run at most; the owner refuses more. */
export function createWaitingQueue(maxLiveCount: number, nowMs: () => number): WaitingQueue {
  const fairness = createFairness(maxLiveCount)
  const drainRate = createDrainRate(maxLiveCount, INITIAL_INTERVAL_MS)
  const entries: WaitingRequest[] = []

  function enter(request: EngineRequest): void {
    if (entries.length === 0) drainRate.noteBusy(nowMs())
    const { tenant } = request
    fairness.enter(tenant)
    entries.push({ request, tenant, enteredAt: fairness.admittedCount() })
  }

  function take(entry: WaitingRequest): void {
    entries.splice(entries.indexOf(entry), 1)
    if (entries.length === 0) drainRate.noteEmpty(nowMs())
  }

  function admit(entry: WaitingRequest): void {
    take(entry)
    fairness.noteAdmission(entry.tenant)
    fairness.chargeInput(entry.tenant, entry.request.promptTokens.length)
  }

  function remove(id: string): WaitingRequest | null {
    const entry = entries.find((candidate) => candidate.request.id === id)
    if (entry === undefined) return null
    take(entry)
    return entry
  }

  return {
    size: () => entries.length,
    enter,
    promisePlaceMs: () => drainRate.promisePlaceMs(nowMs()),
    next: () => fairness.pickNext(entries),
    admit,
    remove,
    chargeToken: (tenant) => fairness.chargeOutput(tenant, 1),
    noteEnd: (tenant) => {
      fairness.leave(tenant)
      drainRate.noteEnd(nowMs())
    },
  }
}
