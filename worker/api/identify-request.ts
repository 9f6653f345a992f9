import { createMiddleware } from 'hono/factory'
import { routePath } from 'hono/route'
import { ApiError } from '../errors.ts'
import { createRequestId } from '../ids.ts'
import { createLog } from '../log.ts'
import type { AppEnv } from './app-context.ts'

const log = createLog()

/**
 * Gives each request its id and its log line, and each answer its headers. The id is always ours:
 * money hangs on it. The caller's own is only logged.
 */
export const identifyRequest = createMiddleware<AppEnv>(async (c, next) => {
  const startedAtMs = Date.now()
  const requestId = createRequestId()
  const answerHeaders = new Headers({ 'x-request-id': requestId })
  c.set('requestId', requestId)
  c.set('startedAtMs', startedAtMs)
  c.set('answerHeaders', answerHeaders)
  await next()
  const durationMs = Date.now() - startedAtMs
  answerHeaders.set('openai-processing-ms', String(durationMs))
  for (const [name, value] of answerHeaders) c.res.headers.set(name, value)
  if (c.var.isRelayed) return
  log('request', {
    requestId,
    callerRequestId: readCallerRequestId(c.req.header('x-request-id')),
    accountId: c.var.caller?.accountId,
    method: c.req.method,
    route: routePath(c),
    status: c.res.status,
    code: c.error instanceof ApiError ? c.error.code : undefined,
    durationMs,
  })
})

function readCallerRequestId(sent: string | undefined): string | undefined {
  return sent?.replace(/[^\w.:-]/g, '').slice(0, 64) || undefined
}
