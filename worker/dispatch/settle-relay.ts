import type { RequestReport, Usage } from '../../protocol/backend.ts'
import type { KeptAnswer } from '../access/idempotency.ts'
import { fetchRequestReport } from '../access/report-client.ts'
import { describeError } from '../log.ts'
import { noteGeneration } from '../telemetry/generation-telemetry.ts'
import {
  composeSettlement,
  type Evidence,
  meterEnding,
  needsReport,
  type RelayEnding,
} from './meter-ending.ts'
import type { RelayJob } from './relay-job.ts'

type SettledRelay =
  | { readonly outcome: 'settled'; readonly usage: Usage }
  /** The reservation stands; the account object's sweep bills it by the backend's report. */
  | { readonly outcome: 'left_to_sweep' }

interface EndedRelay extends Evidence {
  /** Makes durable what is promised with the answer; only called when it is whole. Never throws. */
  readonly prepare?: (billed: Usage) => Promise<void> | undefined
  /** What goes out, for a request whose answer is kept; only asked for when it is whole. */
  readonly composeAnswer?: (billed: Usage) => KeptAnswer | undefined
}

/**
 * Settles a relay by the best evidence there is, and writes the request's log line. Called once a
 * request. Never throws: what cannot be settled now is the sweep's.
 */
export async function settleRelay(
  job: RelayJob,
  ending: RelayEnding,
  { prepare = async () => {}, composeAnswer = () => undefined, ...evidence }: EndedRelay,
): Promise<SettledRelay> {
  job.route.end()
  const { target, backend } = job.route.current()
  const found = needsReport(ending, evidence) ? await awaitReport(job, ending) : null
  if (found === 'still_running') {
    job.account.abandon()
    job.log('left_to_sweep', { requestId: job.requestId, backendId: backend.id })
    return { outcome: 'left_to_sweep' }
  }
  const metering = meterEnding(ending, evidence, found)
  if (ending.how === 'whole') await prepare(metering.usage)
  const settlement = {
    ...composeSettlement(job.requestId, ending, { metering, target }),
    answer: job.isKept && ending.how === 'whole' ? composeAnswer(metering.usage) : undefined,
  }
  let feeMicroUsd: number | undefined
  try {
    const result = await job.account.settle(settlement)
    if (result.outcome === 'unknown_request') {
      job.log('settle_failed', { requestId: job.requestId, outcome: result.outcome })
    }
    feeMicroUsd = result.outcome === 'unknown_request' ? undefined : result.feeMicroUsd
  } catch (error) {
    job.log('settle_failed', { requestId: job.requestId, ...describeError(error) })
    return { outcome: 'left_to_sweep' }
  }
  logRelayed(job, ending, {
    outcome: settlement.outcome,
    promptTokens: settlement.promptTokens,
    completionTokens: settlement.completionTokens,
    meteredBy: metering.meteredBy,
    feeMicroUsd,
  })
  const ended = {
    trace: job.trace,
    requestId: job.requestId,
    endpoint: job.request.endpoint,
    model: target.model.id,
    backendId: backend.id,
    startedAtMs: job.startedAtMs,
    firstTokenAtMs: evidence.firstTokenAtMs ?? null,
    endedAtMs: Date.now(),
    usage: metering.usage,
    feeMicroUsd: feeMicroUsd ?? 0,
    outcome: settlement.outcome,
    errorCode: ending.how === 'failed' ? ending.error.code : null,
  }
  noteGeneration(job.telemetry, ended, job.waitUntil)
  return { outcome: 'settled', usage: metering.usage }
}

const REPORT_ATTEMPT_COUNT = 40
const REPORT_INTERVAL_MS = 50

/**
 * The report of a request that has ended or is about to; null where there is none to be had. After
 * a failure nobody waits for a backend that is out of reach: the client still has to be told.
 */
async function awaitReport(
  job: RelayJob,
  ending: RelayEnding,
): Promise<RequestReport | null | 'still_running'> {
  const { target, backend } = job.route.current()
  const isOwnBackend = target.model.digest !== undefined
  if (!isOwnBackend) return null
  for (let attempt = 1; attempt <= REPORT_ATTEMPT_COUNT; attempt++) {
    const answer = await fetchRequestReport(backend, job.requestId)
    if (answer.outcome === 'unknown') return null
    if (answer.outcome === 'report' && answer.report.state !== 'running') return answer.report
    if (answer.outcome === 'unreachable' && ending.how === 'failed') return null
    if (answer.outcome === 'unreachable' && attempt === REPORT_ATTEMPT_COUNT) return null
    await new Promise((resolve) => setTimeout(resolve, REPORT_INTERVAL_MS))
  }
  return 'still_running'
}

function logRelayed(
  job: RelayJob,
  ending: RelayEnding,
  billed: Parameters<RelayJob['log']>[1],
): void {
  const { target, backend } = job.route.current()
  job.log('relayed', {
    requestId: job.requestId,
    accountId: job.accountId,
    model: target.model.id,
    backendId: backend.id,
    durationMs: Date.now() - job.startedAtMs,
    ...(ending.how === 'failed' && { code: ending.error.code, ...causeOf(ending.error) }),
    ...billed,
  })
}

function causeOf(error: Error) {
  return error.cause === undefined ? {} : describeError(error.cause)
}
