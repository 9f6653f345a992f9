import type { Tier } from '../../protocol/backend.ts'
import { ApiError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Telemetry } from '../telemetry/telemetry.ts'
import { type TraceContext, writeTraceparent } from '../telemetry/trace-context.ts'
import type { AccountClient } from './account-client.ts'
import { sendGeneration } from './backend-client.ts'
import { concede } from './degrade.ts'
import { encodeUpstreamBody, type GenerationRequest } from './generation-request.ts'
import type { RelayEnding } from './meter-ending.ts'
import type { RelayLine } from './relay-line.ts'
import type { Route } from './route.ts'

/** An admitted request on its way: whoever holds it owes the account exactly one settlement. */
export interface RelayJob {
  readonly requestId: string
  readonly accountId: string
  readonly startedAtMs: number
  readonly request: GenerationRequest
  /** What it was admitted as. */
  readonly tier: Tier
  readonly route: Route
  readonly account: AccountClient
  readonly maxUpstreamSilenceMs: number
  /** For an answer in one piece of a server that tells no progress. */
  readonly maxUpstreamAnswerMs: number
  readonly clientSignal: AbortSignal
  /** The request runs on when its client leaves, who may come back for the answer. */
  readonly outlivesClient: boolean
  /** The answer is kept, to be given again. */
  readonly isKept: boolean
  /** Keeps the work alive when the client has gone. */
  readonly waitUntil: (work: Promise<unknown>) => void
  readonly log: Log
  readonly telemetry: Telemetry
  readonly trace: TraceContext
}

/**
 * Sends a job to its backend, or to those that stand in for it, until the line stops it. Throws what
 * `explainFailure` explains.
 */
export function sendJob(job: RelayJob, line: RelayLine): Promise<Response> {
  const { requestId, accountId, request, tier } = job
  return job.route.send(
    ({ backend, target, concession }) =>
      sendGeneration(backend, {
        requestId,
        accountId,
        tier,
        traceparent: writeTraceparent(job.trace),
        endpoint: request.endpoint,
        body: encodeUpstreamBody(
          concession === undefined ? request : concede(request, concession),
          target.model.max_model_len,
        ),
        signal: line.upstreamSignal,
      }),
    line,
  )
}

/** What a relay that did not get through ended as: the line knows whether we stopped it, and why. */
export function explainFailure(line: RelayLine, thrown: unknown): RelayEnding {
  const reason = line.stopReason()
  if (reason === 'client_left') return { how: 'client_left' }
  if (reason === 'upstream_silent') {
    return { how: 'failed', error: new ApiError('deadline_exceeded', { cause: thrown }) }
  }
  const error =
    thrown instanceof ApiError ? thrown : new ApiError('upstream_error', { cause: thrown })
  return { how: 'failed', error }
}

/** Says when the upstream began to answer, where that is known as the headers go out. */
export function composeTiming({ startedAtMs }: RelayJob): Record<string, string> {
  return { 'server-timing': `ttft;dur=${Date.now() - startedAtMs}` }
}

/** Sent to nobody: the client has gone. nginx's status for that, so that it can be told apart. */
export function respondToNobody(): Response {
  return new Response(null, { status: 499 })
}

/** The first to come: the work's result, or null after `delayMs`. */
export async function waitAtMost<T>(work: Promise<T>, delayMs: number): Promise<T | null> {
  let timer: ReturnType<typeof setTimeout> | null = null
  const timeout = new Promise<null>((resolve) => {
    timer = setTimeout(() => resolve(null), delayMs)
  })
  try {
    return await Promise.race([work, timeout])
  } finally {
    if (timer !== null) clearTimeout(timer)
  }
}
