import type { MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import { TIER_HEADER } from '../../protocol/backend.ts'
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
  'idempotency-replayed',
  ...['limit', 'remaining', 'reset'].flatMap((what) => [
    `x-ratelimit-${what}-requests`,
    `x-ratelimit-${what}-tokens`,
  ]),
]

/** Lets browsers call from the configured origins, and read the headers that clients act on. */
export const allowOrigins: MiddlewareHandler<AppEnv> = (c, next) => {
  const origins = c.var.services.config.CORS_ORIGINS.split(',').map((origin) => origin.trim())
  return cors({
    origin: origins.includes('*') ? '*' : origins,
    exposeHeaders: EXPOSED_HEADERS,
    maxAge: 86_400,
  })(c, next)
}
