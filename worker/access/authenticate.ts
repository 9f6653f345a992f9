import { createMiddleware } from 'hono/factory'
import type { AppEnv } from '../api/app-context.ts'
import { ApiError } from '../errors.ts'
import { parseApiKey } from './api-key.ts'
import { equalInConstantTime } from './constant-time.ts'

/**
 * Lets a request through whose API key was made with our checksum secret, and puts its caller on the
 * context. One answer for all others: nothing tells a malformed key from an unknown one.
 */
export const requireApiKey = createMiddleware<AppEnv>(async (c, next) => {
  const { config } = c.var.services
  const token = readBearerToken(c.req.header('authorization'))
  const parsed = await parseApiKey(token, config.KEY_CHECKSUM_SECRET)
  if (parsed.outcome === 'garbage') throw new ApiError('invalid_api_key')
  c.set('caller', { accountId: parsed.accountId, keyHash: parsed.keyHash })
  await next()
})

/** Lets a request through that carries the operator's key. Without one configured, none does. */
export const requireAdminKey = createMiddleware<AppEnv>(async (c, next) => {
  const { ADMIN_KEY } = c.var.services.config
  const token = readBearerToken(c.req.header('authorization'))
  if (ADMIN_KEY === undefined || !(await equalInConstantTime(token, ADMIN_KEY))) {
    throw new ApiError('invalid_api_key')
  }
  await next()
})

/** The token of `authorization: Bearer …`, the scheme in any case; empty if there is none. */
function readBearerToken(authorization: string | undefined): string {
  return /^bearer +(\S+) *$/i.exec(authorization ?? '')?.[1] ?? ''
}
