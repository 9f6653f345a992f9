import { z } from 'zod'
import { mergeRequestSchema } from '../../protocol/adapter-merge.ts'
import type { Degradation } from '../dispatch/concession.ts'
import { ApiError } from '../errors.ts'
import { serviceTierSchema } from './service-tier.ts'

/** The most answers one request may ask for. */
const MAX_CHOICE_COUNT = 128

/** No model's context is longer; keeps sums of token counts exact. */
export const MAX_TOKEN_COUNT = 10_000_000

const MAX_STOP_COUNT = 4

export const choiceCountSchema = z.int().min(1).max(MAX_CHOICE_COUNT)

export const modelNameSchema = z
  .string()
  .min(1)
  .max(200)
  .describe('A base model or an adapter, as `GET /v1/models` names it.')

const sharedExtensionSchema = mergeRequestSchema.and(
  z.looseObject({
    attribution: z
      .boolean()
      .nullish()
      .describe('Tell whose data the answer came from, in `tallygate.attribution`.'),
    cache: z
      .boolean()
      .nullish()
      .describe('An earlier answer to the same request may be given again, free of charge.'),
  }),
)

export const extensionSchema = sharedExtensionSchema
  .and(
    z.looseObject({
      degrade: z.null('is for chat completions and completions alone').optional(),
    }),
  )
  .nullish()

const MAX_FALLBACK_COUNT = 4

const degradeSchema = z
  .strictObject({
    max_tokens: z.int().min(1).max(MAX_TOKEN_COUNT).nullish().describe('A shorter answer.'),
    models: z
      .array(modelNameSchema)
      .max(MAX_FALLBACK_COUNT)
      .nullish()
      .describe('Other models, in this order.'),
  })
  .nullish()
  .describe(
    'What to put up with rather than `overloaded` or `no_backend`; told by `model` and `x-tallygate-degraded`, and billed as what served.',
  )

const textExtensionSchema = sharedExtensionSchema
  .and(z.looseObject({ degrade: degradeSchema }))
  .nullish()

/** What a caller would put up with; nothing where that is nothing. Throws where it cannot be. */
export function readDegradation(tallygate: z.output<typeof textExtensionSchema>): {
  readonly degradation?: Degradation
} {
  const { max_tokens: maxTokens = null, models } = tallygate?.degrade ?? {}
  if (maxTokens === null && !models?.length) return {}
  const other = (['adapters', 'cache'] as const).find((name) => tallygate?.[name])
  if (other !== undefined) {
    const param = 'tallygate.degrade'
    const message = `${param}: cannot go together with 'tallygate.${other}'`
    throw new ApiError('invalid_request', { message, param })
  }
  return { degradation: { maxTokens, models: models ?? [] } }
}

export const temperatureSchema = z.number().min(0).max(2).nullish()
export const topProbabilitySchema = z.number().min(0).max(1).nullish()
export const penaltySchema = z.number().min(-2).max(2).nullish()

/**
 * What both text operations share. OpenAI treats a null like a missing field, so these do. Objects
 * are loose: what is not named here is the backend's to judge.
 */
export const generationFields = {
  model: modelNameSchema,
  stream: z.boolean().nullish(),
  stream_options: z
    .looseObject({
      include_usage: z.boolean().nullish().describe('Send a last chunk with the usage.'),
    })
    .nullish(),
  n: choiceCountSchema.nullish(),
  max_tokens: z.int().min(0).max(MAX_TOKEN_COUNT).nullish(),
  temperature: temperatureSchema,
  top_p: topProbabilitySchema,
  presence_penalty: penaltySchema,
  frequency_penalty: penaltySchema,
  seed: z.int().nullish(),
  stop: z.union([z.string(), z.array(z.string()).max(MAX_STOP_COUNT)]).nullish(),
  logit_bias: z.record(z.string(), z.number()).nullish(),
  user: z.string().nullish(),
  service_tier: serviceTierSchema,
  tallygate: textExtensionSchema,
}

const usageSchema = z
  .looseObject({
    prompt_tokens: z.int(),
    completion_tokens: z.int().optional(),
    total_tokens: z.int(),
    prompt_tokens_details: z.looseObject({ cached_tokens: z.int().nullish() }).nullish(),
  })
  .meta({ id: 'Usage', description: 'What was computed, in tokens.' })

/** What every answer of a backend has; the rest passes through as the backend wrote it. */
export const answerFields = {
  id: z.string().optional(),
  object: z.string().optional(),
  created: z.int().optional(),
  model: z.string().optional(),
  usage: usageSchema.optional(),
  tallygate: z
    .looseObject({})
    .optional()
    .describe('Contributors and matched spans, when attribution was asked for.'),
}

/** What a streamed answer is, in words. */
export const EVENT_STREAM =
  'Server-sent events, a chunk each, then `data: [DONE]`. A failure in mid-stream is `data: {"error": …}` and the end, without `[DONE]`.'
