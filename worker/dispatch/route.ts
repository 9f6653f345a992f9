import type { Reroute } from '../access/account-contract.ts'
import { ApiError } from '../errors.ts'
import { type Candidate, NO_BACKEND_RETRY_AFTER_MS } from './find-targets.ts'
import type { Attempt, Fleet } from './fleet.ts'
import type { RelayLine } from './relay-line.ts'

/** The way of one request to a backend, over others that failed before they answered. */
export interface Route {
  /** Where the request is now, and is billed for. */
  readonly current: () => Candidate
  /**
   * Sends to one candidate after the other until one answers. Never again once one has: its answer
   * may have begun. Concessions are made only where backends are lacking or busy, and only while the
   * answer's headers can still tell of them. Throws the failure that says most.
   */
  readonly send: (
    sendTo: (candidate: Candidate) => Promise<Response>,
    line: Pick<RelayLine, 'stopReason' | 'isOpen'>,
  ) => Promise<Response>
  /** The request is through, however it ended. */
  readonly end: () => void
}

export interface RouteOptions {
  readonly candidates: readonly [Candidate, ...Candidate[]]
  readonly fleet: Fleet
  /** Records where the request goes next and at what price; durable before it is sent there. */
  readonly reroute: (to: Reroute) => Promise<void>
  readonly now: () => number
}

export function createRoute({ candidates, fleet, reroute, now }: RouteOptions): Route {
  let current: Candidate = candidates[0]
  let attempt: Attempt | null = null

  async function tryOne(
    candidate: Candidate,
    sendTo: Parameters<Route['send']>[0],
    { stopReason }: Parameters<Route['send']>[1],
  ): Promise<Response> {
    attempt = fleet.begin(candidate.backend.id, now())
    try {
      const response = await sendTo(candidate)
      attempt.answered()
      return response
    } catch (error) {
      const why = stopReason()
      if (why === 'upstream_silent' || (why === null && isFailure(error))) attempt.failed(now())
      else if (why === null) attempt.answered()
      attempt.end(now())
      throw error
    }
  }

  return {
    current: () => current,
    end: () => attempt?.end(now()),
    send: async (sendTo, line) => {
      let told: unknown = null
      for (const [index, candidate] of candidates.entries()) {
        const isLast = index === candidates.length - 1
        const isConcession = candidate.concession !== current.concession
        if (isConcession && (line.isOpen() || !isLackOfCompute(told))) break
        // Another request's failure may have closed the way since this one set out.
        if (fleet.blockedForMs(candidate.backend.id, now()) > 0 && !(isLast && told === null))
          continue
        if (candidate !== current) {
          current = candidate // first, so that headers which go out now tell of a concession
          const { backend, tariff, concession } = candidate
          await reroute({
            backendId: backend.id,
            ...tariff,
            ...(concession?.model !== undefined && { model: concession.model }),
          })
        }
        try {
          return await tryOne(candidate, sendTo, line)
        } catch (error) {
          if (line.stopReason() !== null || !mayGoElsewhere(error)) throw error
          // A backend that is busy will be free; that one is out of reach says less.
          if (!(told instanceof ApiError && told.code === 'overloaded')) told = error
        }
      }
      throw told ?? new ApiError('no_backend', { retryAfterMs: NO_BACKEND_RETRY_AFTER_MS })
    },
  }
}

/** Nothing told: all ways were closed before a request set out. */
function isLackOfCompute(told: unknown): boolean {
  if (told === null) return true
  return told instanceof ApiError && (told.code === 'overloaded' || told.code === 'no_backend')
}

/** What speaks against the backend and not against the request. */
function isFailure(error: unknown): boolean {
  return !(error instanceof ApiError) || ['no_backend', 'upstream_error'].includes(error.code)
}

function mayGoElsewhere(error: unknown): boolean {
  return isFailure(error) || (error instanceof ApiError && error.code === 'overloaded')
}
