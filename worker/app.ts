import { Hono, type MiddlewareHandler } from 'hono'
import { requireAdminKey, requireApiKey } from './access/authenticate.ts'
import { createAccount, getAccount, listAlerts, updateAccount } from './api/admin-accounts.ts'
import { listBatches, runAnchorCycle } from './api/admin-anchoring.ts'
import { grantCredit, listCredits } from './api/admin-credits.ts'
import { createKey, listKeys, revokeKey, rotateKey } from './api/admin-keys.ts'
import { createPrice, getPrices } from './api/admin-prices.ts'
import { allowOrigins } from './api/allow-origins.ts'
import type { AppEnv } from './api/app-context.ts'
import { getBatchPayload } from './api/batch-payload.ts'
import { createChatCompletion } from './api/chat-completions.ts'
import { createCompletion } from './api/completions.ts'
import { createEmbeddings } from './api/embeddings.ts'
import { getHealth } from './api/health.ts'
import { identifyRequest } from './api/identify-request.ts'
import { getKey } from './api/key.ts'
import { getModel, listModels } from './api/models.ts'
import { getReceipt } from './api/receipts.ts'
import { refuseMethod } from './api/refuse-method.ts'
import { renderError } from './api/render-error.ts'
import {
  getAccountStatement,
  getStatement,
  listAccountStatements,
  listStatements,
} from './api/statements.ts'
import { getUsage } from './api/usage.ts'
import { ApiError } from './errors.ts'
import { createServices } from './services.ts'

/** Everything that the gateway answers. */
const ROUTES: readonly (readonly [string, string, ...MiddlewareHandler<AppEnv>[]])[] = [
  ['GET', '/health', getHealth],
  ['POST', '/v1/chat/completions', requireApiKey, createChatCompletion],
  ['POST', '/v1/completions', requireApiKey, createCompletion],
  ['POST', '/v1/embeddings', requireApiKey, createEmbeddings],
  ['GET', '/v1/models', requireApiKey, listModels],
  ['GET', '/v1/models/:id{.+}', requireApiKey, getModel],
  ['GET', '/v1/usage', requireApiKey, getUsage],
  ['GET', '/v1/statements', requireApiKey, listStatements],
  ['GET', '/v1/statements/:month', requireApiKey, getStatement],
  ['GET', '/v1/key', requireApiKey, getKey],
  ['GET', '/v1/receipts/:id', requireApiKey, getReceipt],
  ['GET', '/batches/:payloadHash', getBatchPayload],
  ['POST', '/admin/v1/accounts', requireAdminKey, createAccount],
  ['GET', '/admin/v1/accounts/:accountId', requireAdminKey, getAccount],
  ['PATCH', '/admin/v1/accounts/:accountId', requireAdminKey, updateAccount],
  ['GET', '/admin/v1/accounts/:accountId/alerts', requireAdminKey, listAlerts],
  ['POST', '/admin/v1/accounts/:accountId/keys', requireAdminKey, createKey],
  ['GET', '/admin/v1/accounts/:accountId/keys', requireAdminKey, listKeys],
  ['DELETE', '/admin/v1/accounts/:accountId/keys/:keyId', requireAdminKey, revokeKey],
  ['POST', '/admin/v1/accounts/:accountId/keys/:keyId/rotate', requireAdminKey, rotateKey],
  ['POST', '/admin/v1/accounts/:accountId/credits', requireAdminKey, grantCredit],
  ['GET', '/admin/v1/accounts/:accountId/credits', requireAdminKey, listCredits],
  ['GET', '/admin/v1/accounts/:accountId/statements', requireAdminKey, listAccountStatements],
  ['GET', '/admin/v1/accounts/:accountId/statements/:month', requireAdminKey, getAccountStatement],
  ['POST', '/admin/v1/prices', requireAdminKey, createPrice],
  ['GET', '/admin/v1/prices', requireAdminKey, getPrices],
  ['POST', '/admin/v1/anchor', requireAdminKey, runAnchorCycle],
  ['GET', '/admin/v1/batches', requireAdminKey, listBatches],
]

/** The gateway's HTTP surface: who may call what, and one handler for every error. */
export function createApp(): Hono<AppEnv> {
  const app = new Hono<AppEnv>()
  app.use(identifyRequest)
  app.use(async (c, next) => {
    c.set('services', createServices(c.env))
    await next()
  })
  app.use('/v1/*', allowOrigins)
  for (const [method, path, ...handlers] of ROUTES) app.on(method, [path], ...handlers)
  for (const [path, routes] of Map.groupBy(ROUTES, ([, path]) => path)) {
    app.all(path, refuseMethod(routes.map(([method]) => method)))
  }
  app.notFound((c) => renderError(c, new ApiError('not_found')))
  app.onError((error, c) => renderError(c, error))
  return app
}
