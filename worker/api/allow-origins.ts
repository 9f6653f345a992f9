import type { MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import { TIER_HEADER } from '../../protocol/backend.ts'
import { QUEUE_POSITION_HEADER } from '../dispatch/queue-position.ts'
import type { AppEnv } from './app-context.ts'
import { DEGRADED_HEADER } from './rate-headers.ts'

const EXPOSED_HEADERS = [
  'x-request-id',
  'openai-processing-ms',
  'retry-after',
  'retry-after-ms',
  'x-should-retry',
  'x-next-cursor',
  'x-statement-state',
  'x-tallygate-cache',
  TIER_HEADER,
  DEGRADED_HEADER,
  QUEUE_POSITION_HEADER,
  'idempotency-replayed',
  ...['limit', 'remaining', 'reset'].flatMap((what) => [
    `x-ratelimit-${what}-requests`,
    `x-ratelimit-${what}-tokens`,
  ]),
]

let made: { readonly origins: string; readonly handler: MiddlewareHandler } | undefined

function createCors(origins: string): MiddlewareHandler {
  const list = origins.split(',').map((origin) => origin.trim())
  return cors({
    origin: list.includes('*') ? '*' : list,
    exposeHeaders: EXPOSED_HEADERS,
    maxAge: 86_400,
  })
}

/** Lets browsers call from the configured origins, and read the headers that clients act on. Whoever names no origin is no browser's page. */
export const allowOrigins: MiddlewareHandler<AppEnv> = (c, next) => {
  if (c.req.header('origin') === undefined) return next()
  const { CORS_ORIGINS } = c.var.services.config
  if (made?.origins !== CORS_ORIGINS)
    made = { origins: CORS_ORIGINS, handler: createCors(CORS_ORIGINS) }
  return made.handler(c, next)
}
