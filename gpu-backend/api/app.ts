import { createHash, timingSafeEqual } from 'node:crypto'
import { Hono, type MiddlewareHandler } from 'hono'
import {
  REQUEST_ID_HEADER,
  TENANT_HEADER,
  TIER_HEADER,
  TIERS,
  type Tier,
} from '../../protocol/backend.ts'
import { BackendError } from '../errors.ts'
import { findAdapter, listAdapters, registerAdapter, unregisterAdapter } from './adapters.ts'
import { answerChatCompletion } from './chat-completions.ts'
import { answerCompletion } from './completions.ts'
import { deleteDatanet, findDatanet, keepDatanet, listDatanets } from './datanets.ts'
import { answerEmbeddings } from './embeddings.ts'
import { answerError } from './error-response.ts'
import { answerHealth } from './health.ts'
import { answerMetrics } from './metrics.ts'
import { findModel, listModels } from './models.ts'
import { findRequestReport } from './request-reports.ts'
import type { BackendContext, BackendEnv, Services } from './services.ts'
import { ANONYMOUS } from './tenant.ts'
import { answerDetokenize, answerTokenize } from './tokenize.ts'

type Operation = (c: BackendContext, services: Services) => Response | Promise<Response>

/** Path → method → operation. */
const ROUTES: Record<string, Readonly<Record<string, Operation>>> = {
  '/health': { GET: answerHealth },
  '/metrics': { GET: answerMetrics },
  '/v1/chat/completions': { POST: answerChatCompletion },
  '/v1/completions': { POST: answerCompletion },
  '/v1/embeddings': { POST: answerEmbeddings },
  '/tokenize': { POST: answerTokenize },
  '/v1/tokenize': { POST: answerTokenize },
  '/detokenize': { POST: answerDetokenize },
  '/v1/detokenize': { POST: answerDetokenize },
  '/v1/models': { GET: listModels },
  '/v1/models/:id{.+}': { GET: findModel },
  '/v1/adapters': { GET: listAdapters, POST: registerAdapter },
  '/v1/adapters/:id': { GET: findAdapter, DELETE: unregisterAdapter },
  '/v1/datanets': { GET: listDatanets, POST: keepDatanet },
  '/v1/datanets/:id': { GET: findDatanet, DELETE: deleteDatanet },
  '/tallygate/requests/:id': { GET: findRequestReport },
}

/** Ids that a usage leaf can carry (protocol/usage-leaf.ts); others are replaced by an id of our own. */
const REQUEST_ID = /^req_[0-9a-zA-Z]{1,59}$/

const TENANT = /^[\x21-\x7e]{1,200}$/

/** The backend's HTTP API. */
export function createApp(services: Services): Hono<BackendEnv> {
  const app = new Hono<BackendEnv>()
  app.use(identifyRequest(services))
  if (services.bearerToken !== null) app.use(requireToken(services.bearerToken))
  for (const [path, operations] of Object.entries(ROUTES)) {
    for (const [method, operation] of Object.entries(operations)) {
      app.on(method, path, (c) => operation(c, services))
    }
    app.all(path, (c) => {
      const allowed = Object.keys(operations).join(', ')
      c.header('allow', allowed)
      throw new BackendError('method_not_allowed', `This endpoint answers ${allowed} only.`)
    })
  }
  app.notFound((c) =>
    answerError(c, new BackendError('not_found', 'There is nothing here.'), services),
  )
  app.onError((error, c) => answerError(c, error, services))
  return app
}

function identifyRequest(services: Services): MiddlewareHandler<BackendEnv> {
  return async (c, next) => {
    const givenId = c.req.header(REQUEST_ID_HEADER) ?? ''
    const requestId = REQUEST_ID.test(givenId) ? givenId : services.createRequestId()
    const tenant = c.req.header(TENANT_HEADER) ?? ''
    c.set('requestId', requestId)
    c.set('tenant', TENANT.test(tenant) ? tenant : ANONYMOUS)
    c.header(REQUEST_ID_HEADER, requestId)
    c.set('tier', readTier(c.req.header(TIER_HEADER)))
    await next()
  }
}

function readTier(given = 'standard'): Tier {
  const tier = TIERS.find((name) => name === given)
  if (tier !== undefined) return tier
  throw new BackendError(
    'invalid_request',
    `'${TIER_HEADER}': must be one of ${TIERS.join(', ')}`,
    {
      param: TIER_HEADER,
    },
  )
}

/** `authorization: Bearer …` on everything but `/health`; compared in constant time. */
function requireToken(token: string): MiddlewareHandler<BackendEnv> {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  const expected = digest(token)
  return async (c, next) => {
    const [, given] = /^bearer (.+)$/i.exec(c.req.header('authorization') ?? '') ?? []
    if (c.req.path !== '/health' && !timingSafeEqual(digest(given ?? ''), expected)) {
      throw new BackendError('invalid_api_key', 'The bearer token is missing or not valid.')
    }
    await next()
  }
}
