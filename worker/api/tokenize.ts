import { z } from 'zod'
import type { GenerationRequest } from '../dispatch/generation-request.ts'
import type { AppContext } from './app-context.ts'
import { messageSchema } from './chat-completions.ts'
import { modelNameSchema } from './generation-schema.ts'
import { parseRequest } from './parse-request.ts'
import { readJsonBody } from './read-json-body.ts'
import { serveGeneration } from './serve-generation.ts'

export const tokenizeRequestSchema = z
  .looseObject({
    model: modelNameSchema,
    prompt: z.string().nullish(),
    messages: z.array(messageSchema).min(1).max(10_000).nullish(),
    add_special_tokens: z.boolean().nullish(),
    return_token_strs: z.boolean().nullish(),
  })
  .refine(({ prompt, messages }) => (prompt == null) !== (messages == null), {
    path: ['prompt'],
    message: 'give either this or messages',
  })

export const tokenizationSchema = z
  .looseObject({
    count: z.int(),
    max_model_len: z.int(),
    tokens: z.array(z.int()),
    token_strs: z.array(z.string()).nullish(),
  })
  .meta({ id: 'Tokenization' })

export const detokenizeRequestSchema = z.looseObject({
  model: modelNameSchema,
  tokens: z.array(z.int().min(0)),
})

export const detokenizationSchema = z
  .looseObject({ prompt: z.string() })
  .meta({ id: 'Detokenization' })

/** `POST /v1/tokenize`: free of charge; counts as a request. */
export function createTokenization(c: AppContext): Promise<Response> {
  return serveFree(c, 'tokenize', tokenizeRequestSchema)
}

/** `POST /v1/detokenize`: free of charge; counts as a request. */
export function createDetokenization(c: AppContext): Promise<Response> {
  return serveFree(c, 'detokenize', detokenizeRequestSchema)
}

async function serveFree(
  c: AppContext,
  endpoint: Extract<GenerationRequest['endpoint'], 'tokenize' | 'detokenize'>,
  schema: z.ZodType<{ readonly model: string }>,
): Promise<Response> {
  const { value, bytes } = await readJsonBody(c.req.raw, c.var.services.config)
  return serveGeneration(c, {
    endpoint,
    model: parseRequest(schema, value).model,
    isStream: false,
    wantsUsage: false,
    merge: null,
    wantsAttribution: false,
    choiceCount: 1,
    computedChoiceCount: 1,
    maxCompletionTokens: 0,
    promptTokenBound: 0,
    body: value,
    bodyBytes: bytes,
  })
}
