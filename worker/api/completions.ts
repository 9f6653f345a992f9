import { z } from 'zod'
import { planMerge } from '../../protocol/adapter-merge.ts'
import { boundPromptTokens, type GenerationRequest } from '../dispatch/generation-request.ts'
import type { AppContext } from './app-context.ts'
import {
  answerFields,
  choiceCountSchema,
  generationFields,
  readDegradation,
} from './generation-schema.ts'
import { parseRequest } from './parse-request.ts'
import { type JsonBody, readJsonBody } from './read-json-body.ts'
import { serveGeneration } from './serve-generation.ts'
import { readTier } from './service-tier.ts'

const tokenIdsSchema = z.array(z.int().min(0)).min(1)

/** No more prompts than this in one request. */
const MAX_PROMPT_COUNT = 128

export const completionRequestSchema = z
  .looseObject({
    ...generationFields,
    prompt: z.union(
      [
        z.string(),
        z.array(z.string()).min(1).max(MAX_PROMPT_COUNT),
        tokenIdsSchema,
        z.array(tokenIdsSchema).min(1).max(MAX_PROMPT_COUNT),
      ],
      `must be a string, a list of token ids, or a list of at most ${MAX_PROMPT_COUNT} of either`,
    ),
    best_of: choiceCountSchema.nullish(),
    echo: z.boolean().nullish(),
    logprobs: z.int().min(0).max(20).nullish(),
  })
  .refine((body) => (body.best_of ?? body.n ?? 1) >= (body.n ?? 1), {
    path: ['best_of'],
    message: 'must be at least n',
  })

export const completionSchema = z
  .looseObject({
    ...answerFields,
    choices: z.array(
      z.looseObject({
        index: z.int(),
        text: z.string(),
        finish_reason: z.string().nullish(),
      }),
    ),
  })
  .meta({ id: 'Completion' })

/** `POST /v1/completions`. */
export async function createCompletion(c: AppContext): Promise<Response> {
  const body = await readJsonBody(c.req.raw, c.var.services.config)
  return serveGeneration(c, parseCompletionRequest(body))
}

function parseCompletionRequest({ value, bytes }: JsonBody): GenerationRequest {
  const completion = parseRequest(completionRequestSchema, value)
  const promptCount = countPrompts(completion.prompt)
  const perPrompt = completion.n ?? 1
  return {
    endpoint: 'completions',
    model: completion.model,
    merge: planMerge(completion.tallygate),
    ...readTier(completion.service_tier),
    ...readDegradation(completion.tallygate),
    isStream: completion.stream ?? false,
    wantsUsage: completion.stream_options?.include_usage ?? false,
    wantsAttribution: completion.tallygate?.attribution ?? false,
    choiceCount: promptCount * perPrompt,
    computedChoiceCount: promptCount * Math.max(completion.best_of ?? 1, perPrompt),
    maxCompletionTokens: completion.max_tokens ?? null,
    promptTokenBound: boundPromptTokens(bytes.length, promptCount),
    body: value,
    bodyBytes: bytes,
  }
}

function countPrompts(prompt: z.output<typeof completionRequestSchema>['prompt']): number {
  return typeof prompt === 'string' || typeof prompt[0] === 'number' ? 1 : prompt.length
}
