import { Hono, type MiddlewareHandler } from 'hono'
import { cors } from 'hono/cors'
import { requireAdminKey, requireApiKey } from './access/authenticate.ts'
import type { AppEnv } from './api/app-context.ts'
import { createChatCompletion } from './api/chat-completions.ts'
import { createCompletion } from './api/completions.ts'
import { getHealth } from './api/health.ts'
import { identifyRequest } from './api/identify-request.ts'
import { getModel, listModels } from './api/models.ts'
import { refuseMethod } from './api/refuse-method.ts'
import { renderError } from './api/render-error.ts'
import { ApiError } from './errors.ts'
import { createServices } from './services.ts'

/** Everything that the gateway answers. */
const ROUTES: readonly (readonly [string, string, ...MiddlewareHandler<AppEnv>[]])[] = [
  ['GET', '/health', getHealth],
  ['POST', '/v1/chat/completions', requireApiKey, createChatCompletion],
  ['POST', '/v1/completions', requireApiKey, createCompletion],
  ['GET', '/v1/models', requireApiKey, listModels],
  ['GET', '/v1/models/:id{.+}', requireApiKey, getModel],
]

/** The gateway's HTTP surface: who may call what, and one handler for every error. */
export function createApp(): Hono<AppEnv> {
  const app = new Hono<AppEnv>()
  app.use(identifyRequest)
  app.use(async (c, next) => {
    c.set('services', createServices(c.env))
    await next()
  })
  app.use('/v1/*', cors({ origin: pickOrigin, exposeHeaders: EXPOSED_HEADERS, maxAge: 86_400 }))
  for (const [method, path, ...handlers] of ROUTES) app.on(method, path, ...handlers)
  for (const [path, routes] of Map.groupBy(ROUTES, ([, path]) => path)) {
    app.all(path, refuseMethod(routes.map(([method]) => method)))
  }
  app.notFound((c) => renderError(c, new ApiError('not_found')))
  app.onError((error, c) => renderError(c, error))
  return app
}
