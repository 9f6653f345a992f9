/** What one isolate has learnt of one backend. Plain data; a new value for each event. */
export type Breaker =
  /** Requests go through. */
  | { readonly state: 'closed'; readonly failureCount: number }
  /** It failed too often in a row: nothing goes through until then. */
  | { readonly state: 'open'; readonly untilMs: number; readonly openCount: number }
  /** One request finds out whether it is back; another may once this one's time is up. */
  | { readonly state: 'half_open'; readonly probeUntilMs: number; readonly openCount: number }

export const CLOSED_BREAKER: Breaker = { state: 'closed', failureCount: 0 }

/** Failures in a row that open a closed breaker. */
export const FAILURES_TO_OPEN = 3
const FIRST_OPEN_MS = 1_000
export const MAX_OPEN_MS = 30_000
/** A probe that says nothing for this long is given up. */
export const PROBE_MS = 10_000

/** How long nothing goes through, from now on; 0 when a request may. */
export function blockedForMs(breaker: Breaker, nowMs: number): number {
  switch (breaker.state) {
    case 'closed':
      return 0
    case 'open':
      return Math.max(0, breaker.untilMs - nowMs)
    case 'half_open':
      return Math.max(0, breaker.probeUntilMs - nowMs)
  }
}

/** A request sets out: through an open breaker whose time is up it is the probe. */
export function beginTry(breaker: Breaker, nowMs: number): Breaker {
  if (breaker.state === 'closed') return breaker
  return { state: 'half_open', probeUntilMs: nowMs + PROBE_MS, openCount: breaker.openCount }
}

/** The backend answered, be it with a refusal of the request. */
export function noteAnswer(): Breaker {
  return CLOSED_BREAKER
}

/** The backend failed. Each failed probe doubles the time that it is left alone. */
export function noteFailure(breaker: Breaker, nowMs: number): Breaker {
  switch (breaker.state) {
    case 'closed': {
      const failureCount = breaker.failureCount + 1
      return failureCount < FAILURES_TO_OPEN ? { state: 'closed', failureCount } : open(1, nowMs)
    }
    case 'half_open':
      return open(breaker.openCount + 1, nowMs)
    case 'open':
      return breaker // it set out before the breaker opened
  }
}

/** A try ended without saying anything of the backend: the client left. */
export function noteNothing(breaker: Breaker, nowMs: number): Breaker {
  if (breaker.state !== 'half_open') return breaker
  return { state: 'open', untilMs: nowMs, openCount: breaker.openCount }
}

function open(openCount: number, nowMs: number): Breaker {
  const openMs = Math.min(MAX_OPEN_MS, FIRST_OPEN_MS * 2 ** (openCount - 1))
  return { state: 'open', untilMs: nowMs + openMs, openCount }
}
