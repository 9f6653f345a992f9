import { ApiError, composeErrorBody, ERRORS } from '../errors.ts'
import { createLog, describeError } from '../log.ts'
import type { AppContext } from './app-context.ts'

const log = createLog()

/**
 * The one place where an error becomes an answer. What is not an ApiError is a fault of ours: the
 * caller gets the generic envelope and the log the detail.
 */
export function renderError(c: AppContext, thrown: unknown): Response {
  const error = thrown instanceof ApiError ? thrown : classify(thrown)
  const { status } = ERRORS[error.code]
  const isLogged = c.var.isRelayed && thrown instanceof ApiError // by the relay
  if (status >= 500 && error.cause !== undefined && !isLogged) {
    log('request_failed', {
      requestId: c.var.requestId,
      code: error.code,
      ...describeError(error.cause),
    })
  }
  const headers = c.var.answerHeaders
  if (error.retryAfterMs !== null) {
    headers.set('retry-after-ms', String(error.retryAfterMs))
    headers.set('retry-after', String(Math.ceil(error.retryAfterMs / 1_000)))
  }
  // Official clients retry by status; these are the same the next second.
  if (error.code === 'budget_exceeded' || error.code === 'idempotency_conflict')
    headers.set('x-should-retry', 'false')
  return c.json(composeErrorBody(error), status)
}

/** How soon D1 may be asked again after it has failed. */
export const LEDGER_RETRY_MS = 5_000

function classify(cause: unknown): ApiError {
  return isLedgerFailure(cause)
    ? new ApiError('ledger_unavailable', { cause, retryAfterMs: LEDGER_RETRY_MS })
    : new ApiError('internal_error', { cause })
}

/** Whether D1 failed: it says so in the message of its error, which drizzle hands on as a cause. */
function isLedgerFailure(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return error.message.startsWith('D1_ERROR') || isLedgerFailure(error.cause)
}
