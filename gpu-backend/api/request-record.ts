import type { Usage } from '../../protocol/backend.ts'
import { BackendError } from '../errors.ts'
import { describeThrown } from '../log.ts'
import type { RunningReport } from './report-store.ts'
import type { Services } from './services.ts'

/** Opens the report of a request. Throws a {@link BackendError} while one of its id is running. */
export function openReport(
  { reports }: Pick<Services, 'reports'>,
  requestId: string,
  promptTokenCount: number,
): RunningReport {
  const report = reports.start(requestId, promptTokenCount)
  if (report) return report
  throw new BackendError('invalid_request', "'x-request-id': a request of this id is running", {
    param: 'x-request-id',
  })
}

export interface RequestEnd {
  readonly state: 'completed' | 'cancelled' | 'failed'
  readonly usage: Usage
  /** Why it failed; null otherwise. */
  readonly error: BackendError | null
  readonly startedAtMs: number
}

/** Counts a request that ended, and logs it. */
export function noteEnd(
  { counters, log, now }: Pick<Services, 'counters' | 'log' | 'now'>,
  { requestId, tenant }: { readonly requestId: string; readonly tenant: string },
  { state, usage, error, startedAtMs }: RequestEnd,
): void {
  counters.ends.count(state)
  log(state === 'failed' ? 'warn' : 'info', 'request_ended', {
    requestId,
    tenant,
    outcome: state,
    promptTokens: usage.prompt_tokens,
    completionTokens: usage.completion_tokens,
    durationMs: now() - startedAtMs,
    ...(error && { code: error.code, ...(error.cause ? describeThrown(error.cause) : {}) }),
  })
}
