import { createMiddleware } from 'hono/factory'
import { routePath } from 'hono/route'
import { ApiError } from '../errors.ts'
import { toHex } from '../hex.ts'
import { createRequestId } from '../ids.ts'
import { createLog } from '../log.ts'
import { openTraceContext } from '../telemetry/trace-context.ts'
import type { AppEnv } from './app-context.ts'

const log = createLog()

/**
 * Gives each request its id and its log line, and each answer its headers. The id is always ours:
 * money hangs on it. The caller's own is only logged.
 */
export const identifyRequest = createMiddleware<AppEnv>(async (c, next) => {
  const startedAtMs = Date.now()
  const requestId = createRequestId()
  const answerHeaders = new Map([['x-request-id', requestId]])
  c.set('requestId', requestId)
  c.set('startedAtMs', startedAtMs)
  c.set('trace', openTraceContext(c.req.header('traceparent'), createHex))
  c.set('answerHeaders', answerHeaders)
  await next()
  const durationMs = Date.now() - startedAtMs
  answerHeaders.set('openai-processing-ms', String(durationMs))
  const { headers } = c.res
  for (const [name, value] of answerHeaders) headers.set(name, value)
  const route = routePath(c)
  const code = c.error instanceof ApiError ? c.error.code : undefined
  const telemetry = c.var.services?.telemetry
  telemetry?.meters.record('tallygate.requests', 1, { route, status: String(c.res.status) })
  if (c.var.isRelayed) return
  log('request', {
    requestId,
    callerRequestId: readCallerRequestId(c.req.header('x-request-id')),
    accountId: c.var.caller?.accountId,
    method: c.req.method,
    route,
    status: c.res.status,
    code,
    durationMs,
  })
  telemetry?.addSpan(
    {
      trace: c.var.trace,
      name: `${c.req.method} ${route}`,
      startedAtMs,
      endedAtMs: startedAtMs + durationMs,
      attributes: {
        'http.request.method': c.req.method,
        'http.route': route,
        'http.response.status_code': c.res.status,
      },
      errorCode: code ?? null,
    },
    (work) => c.executionCtx.waitUntil(work),
  )
})

function createHex(byteCount: number): string {
  return toHex(crypto.getRandomValues(new Uint8Array(byteCount)).buffer)
}

function readCallerRequestId(sent: string | undefined): string | undefined {
  return sent?.replace(/[^\w.:-]/g, '').slice(0, 64) || undefined
}
