import { z } from 'zod'
import { planMerge } from '../../protocol/adapter-merge.ts'
import { boundPromptTokens, type GenerationRequest } from '../dispatch/generation-request.ts'
import type { AppContext } from './app-context.ts'
import { answerFields, extensionSchema, modelNameSchema } from './generation-schema.ts'
import { parseRequest } from './parse-request.ts'
import { type JsonBody, readJsonBody } from './read-json-body.ts'
import { serveGeneration } from './serve-generation.ts'
import { readTier, serviceTierSchema } from './service-tier.ts'

const tokenIdsSchema = z.array(z.int().min(0)).min(1)

/** OpenAI's own limit. */
const MAX_INPUT_COUNT = 2048

export const embeddingRequestSchema = z.looseObject({
  model: modelNameSchema,
  input: z.union(
    [
      z.string(),
      z.array(z.string()).min(1).max(MAX_INPUT_COUNT),
      tokenIdsSchema,
      z.array(tokenIdsSchema).min(1).max(MAX_INPUT_COUNT),
    ],
    `must be a string, a list of token ids, or a list of at most ${MAX_INPUT_COUNT} of either`,
  ),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  dimensions: z.int().min(1).nullish(),
  service_tier: serviceTierSchema,
  tallygate: extensionSchema,
})

export const embeddingListSchema = z
  .looseObject({
    ...answerFields,
    data: z.array(
      z.looseObject({
        index: z.int(),
        embedding: z.union([z.array(z.number()), z.string()]).describe('Floats, or base64.'),
      }),
    ),
  })
  .meta({ id: 'EmbeddingList' })

/** `POST /v1/embeddings`: billed by the tokens of the inputs. */
export async function createEmbeddings(c: AppContext): Promise<Response> {
  const body = await readJsonBody(c.req.raw, c.var.services.config)
  return serveGeneration(c, parseEmbeddingRequest(body))
}

function parseEmbeddingRequest({ value, bytes }: JsonBody): GenerationRequest {
  const {
    model,
    input,
    tallygate,
    service_tier: serviceTier,
  } = parseRequest(embeddingRequestSchema, value)
  const inputCount = typeof input === 'string' || typeof input[0] === 'number' ? 1 : input.length
  return {
    endpoint: 'embeddings',
    model,
    merge: planMerge(tallygate),
    ...readTier(serviceTier),
    isStream: false,
    wantsUsage: false,
    wantsAttribution: false,
    choiceCount: inputCount,
    computedChoiceCount: inputCount,
    maxCompletionTokens: 0,
    promptTokenBound: boundPromptTokens(bytes.length, inputCount),
    body: value,
    bodyBytes: bytes,
  }
}
