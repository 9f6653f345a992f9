import { BACKEND_ERRORS, BackendError } from '../errors.ts'
import { describeThrown } from '../log.ts'
import type { BackendContext, Services } from './services.ts'

/** OpenAI's error envelope. */
export function formatError(error: BackendError): object {
  const { type } = BACKEND_ERRORS[error.code]
  return { error: { message: error.message, type, param: error.param, code: error.code } }
}

/** What the caller is told of a throw; of an unknown one, nothing but that it happened. */
export function toBackendError(thrown: unknown): BackendError {
  if (thrown instanceof BackendError) return thrown
  return new BackendError(
    'internal_error',
    'Something went wrong on our side. The request id names it.',
    { cause: thrown },
  )
}

/** Answers, logs and counts a request that ended in a throw; one whose caller left gets no answer. */
export function answerError(c: BackendContext, thrown: unknown, services: Services): Response {
  if (c.req.raw.signal.aborted) return new Response(null, { status: 499 })
  const error = toBackendError(thrown)
  const { status } = BACKEND_ERRORS[error.code]
  services.counters.errors.count(error.code)
  services.log(status === 500 ? 'error' : 'info', 'request_refused', {
    requestId: c.var.requestId,
    code: error.code,
    status,
    ...(status === 500 ? describeThrown(error.cause ?? error) : {}),
  })
  if (error.retryAfterMs !== null) {
    c.header('retry-after-ms', String(error.retryAfterMs))
    c.header('retry-after', String(Math.ceil(error.retryAfterMs / 1000)))
  }
  return c.json(formatError(error), status)
}
