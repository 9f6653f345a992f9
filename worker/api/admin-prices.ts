import { z } from 'zod'
import { priceSchema } from '../config-schema.ts'
import { ApiError } from '../errors.ts'
import { PRICE_LEAD_MS, type PriceVersion } from '../ledger/price-list.ts'
import { insertPrice, listPrices } from '../ledger/price-store.ts'
import type { AppContext } from './app-context.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'

const rates = priceSchema.shape

/** A price as the API spells it; amounts are micro-USD for a million tokens. */
export const priceBodySchema = z.strictObject({
  model: z
    .string()
    .min(1)
    .max(200)
    .nullable()
    .default(null)
    .describe('The model or adapter as callers name it; null: all without a price of their own.'),
  backend_id: z
    .string()
    .nullable()
    .default(null)
    .describe('As the configuration names it; null: all.'),
  prompt_micro_usd_per_million: rates.promptMicroUsdPerMillion,
  cached_micro_usd_per_million: rates.cachedMicroUsdPerMillion,
  completion_micro_usd_per_million: rates.completionMicroUsdPerMillion,
  effective_at_ms: z
    .int()
    .max(Number.MAX_SAFE_INTEGER)
    .optional()
    .describe('From when it is in force, at least an hour ahead; absent: as soon as it can be.'),
})

export const priceVersionSchema = z
  .strictObject({
    version: z.int(),
    object: z.literal('price'),
    model: z.string().nullable(),
    backend_id: z.string().nullable(),
    prompt_micro_usd_per_million: z.int(),
    cached_micro_usd_per_million: z.int(),
    completion_micro_usd_per_million: z.int(),
    effective_at_ms: z.int(),
    created_at_ms: z.int(),
  })
  .meta({ id: 'Price', description: 'One version; none is ever changed.' })

export const priceListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(priceVersionSchema) })
  .meta({ id: 'PriceList' })

/** `POST /admin/v1/prices`: publishes a version. None is ever changed; a later one replaces it. */
export async function createPrice(c: AppContext): Promise<Response> {
  const { config, database } = c.var.services
  const body = parseRequest(priceBodySchema, (await readJsonBody(c.req.raw, config)).value)
  if (body.backend_id !== null && !config.BACKENDS.some(({ id }) => id === body.backend_id))
    throw refuse('backend_id', 'must name a configured backend, or be null for all')
  const createdAtMs = Date.now()
  const earliestMs = createdAtMs + PRICE_LEAD_MS
  const effectiveAtMs = body.effective_at_ms ?? earliestMs
  if (effectiveAtMs < earliestMs)
    throw refuse('effective_at_ms', `must be ${PRICE_LEAD_MS} ms ahead: not before ${earliestMs}`)
  const price = await insertPrice(database, {
    model: body.model,
    backendId: body.backend_id,
    promptMicroUsdPerMillion: body.prompt_micro_usd_per_million,
    cachedMicroUsdPerMillion: body.cached_micro_usd_per_million,
    completionMicroUsdPerMillion: body.completion_micro_usd_per_million,
    effectiveAtMs,
    createdAtMs,
  })
  return c.json(composePriceBody(price), 201)
}

export const pricesQuerySchema = z.object({
  limit: z.coerce.number().int().min(1).max(1_000).default(100),
  before_version: z.coerce.number().int().min(1).optional(),
})

/** `GET /admin/v1/prices`: every version ever published, the newest first. */
export async function getPrices(c: AppContext): Promise<Response> {
  const query = parseRequest(pricesQuerySchema, c.req.query())
  const { limit, before_version: beforeVersion } = query
  const prices = await listPrices(c.var.services.database, { limit, beforeVersion })
  const body: z.input<typeof priceListSchema> = {
    object: 'list',
    data: prices.map(composePriceBody),
  }
  return c.json(body)
}

function refuse(param: string, fault: string): ApiError {
  return new ApiError('invalid_request', { message: `${param}: ${fault}`, param })
}

function composePriceBody(price: PriceVersion): z.input<typeof priceVersionSchema> {
  return {
    version: price.version,
    object: 'price',
    model: price.model,
    backend_id: price.backendId,
    prompt_micro_usd_per_million: price.promptMicroUsdPerMillion,
    cached_micro_usd_per_million: price.cachedMicroUsdPerMillion,
    completion_micro_usd_per_million: price.completionMicroUsdPerMillion,
    effective_at_ms: price.effectiveAtMs,
    created_at_ms: price.createdAtMs,
  }
}
