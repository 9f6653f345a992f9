import {
  type Breaker,
  beginTry,
  blockedForMs,
  CLOSED_BREAKER,
  noteAnswer,
  noteFailure,
  noteNothing,
} from './breaker.ts'

/** One request under way at one backend. Each method may be called once it is known, in any order. */
export interface Attempt {
  readonly answered: () => void
  readonly failed: (nowMs: number) => void
  /** Nothing is under way any more. */
  readonly end: (nowMs: number) => void
}

/** What this isolate knows of the backends from its own requests. Plain data, no I/O. */
export interface Fleet {
  /** How long no request may set out for a backend; 0 when one may. */
  readonly blockedForMs: (backendId: string, nowMs: number) => number
  readonly inFlightCount: (backendId: string) => number
  readonly begin: (backendId: string, nowMs: number) => Attempt
}

export function createFleet(): Fleet {
  const breakers = new Map<string, Breaker>()
  const inFlight = new Map<string, number>()
  const breakerOf = (backendId: string) => breakers.get(backendId) ?? CLOSED_BREAKER
  const inFlightCount = (backendId: string) => inFlight.get(backendId) ?? 0

  function begin(backendId: string, begunAtMs: number): Attempt {
    breakers.set(backendId, beginTry(breakerOf(backendId), begunAtMs))
    inFlight.set(backendId, inFlightCount(backendId) + 1)
    let isKnown = false
    let isOver = false
    return {
      answered: () => {
        isKnown = true
        breakers.set(backendId, noteAnswer())
      },
      failed: (nowMs) => {
        isKnown = true
        breakers.set(backendId, noteFailure(breakerOf(backendId), nowMs))
      },
      end: (nowMs) => {
        if (isOver) return
        isOver = true
        inFlight.set(backendId, inFlightCount(backendId) - 1)
        if (!isKnown) breakers.set(backendId, noteNothing(breakerOf(backendId), nowMs))
      },
    }
  }

  return {
    blockedForMs: (backendId, nowMs) => blockedForMs(breakerOf(backendId), nowMs),
    inFlightCount,
    begin,
  }
}
