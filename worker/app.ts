import { Hono, type MiddlewareHandler } from 'hono'
import { requireAdminKey, requireApiKey } from './access/authenticate.ts'
import { allowOrigins } from './api/allow-origins.ts'
import type { AppEnv } from './api/app-context.ts'
import { identifyRequest } from './api/identify-request.ts'
import { ALL_OPERATIONS } from './api/openapi.ts'
import type { Operation } from './api/operation.ts'
import { refuseMethod } from './api/refuse-method.ts'
import { renderError } from './api/render-error.ts'
import { ApiError } from './errors.ts'
import { createServices } from './services.ts'

const GUARDS: Record<NonNullable<Operation['key']>, MiddlewareHandler<AppEnv>> = {
  api: requireApiKey,
  admin: requireAdminKey,
}

/** Endpoints of OpenAI that are not here, and whose paths would pass for an id. */
const NOT_OFFERED = ['/v1/responses/compact', '/v1/responses/input_tokens']

/** The gateway's HTTP surface: who may call what, and one handler for every error. */
export function createApp(): Hono<AppEnv> {
  const app = new Hono<AppEnv>()
  app.use(identifyRequest)
  app.use(async (c, next) => {
    c.set('services', createServices(c.env))
    await next()
  })
  app.use('/v1/*', allowOrigins)
  for (const path of NOT_OFFERED) app.all(path, (c) => c.notFound())
  for (const { method, path, key, handler } of ALL_OPERATIONS) {
    if (key !== null) app.on(method, [path], GUARDS[key])
    app.on(method, [path], handler)
  }
  for (const [path, operations] of Map.groupBy(ALL_OPERATIONS, ({ path }) => path)) {
    app.all(path, refuseMethod(operations.map(({ method }) => method)))
  }
  app.notFound((c) => renderError(c, new ApiError('not_found')))
  app.onError((error, c) => renderError(c, error))
  return app
}
