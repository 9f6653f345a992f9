import { z } from 'zod'
import { planMerge } from '../../protocol/adapter-merge.ts'
import {
  boundPromptTokens,
  boundToolTokens,
  type GenerationRequest,
} from '../dispatch/generation-request.ts'
import type { AppContext } from './app-context.ts'
import {
  answerFields,
  generationFields,
  MAX_TOKEN_COUNT,
  readDegradation,
} from './generation-schema.ts'
import { parseRequest } from './parse-request.ts'
import { type JsonBody, readJsonBody } from './read-json-body.ts'
import { serveGeneration } from './serve-generation.ts'
import { readTier } from './service-tier.ts'

export const messageSchema = z.looseObject({
  role: z.enum(['system', 'developer', 'user', 'assistant', 'tool', 'function']),
  content: z.union([z.string(), z.array(z.looseObject({ type: z.string() }))]).nullish(),
})

/** Tools, and what constrains an answer, in detail, are the backend's to judge. */
const typedObjectSchema = z.looseObject({ type: z.string() })

export const chatRequestSchema = z.looseObject({
  ...generationFields,
  messages: z.array(messageSchema).min(1).max(10_000),
  response_format: typedObjectSchema.nullish(),
  tools: z.array(typedObjectSchema).max(128).nullish(),
  tool_choice: z.union([z.enum(['none', 'auto', 'required']), typedObjectSchema]).nullish(),
  parallel_tool_calls: z.boolean().nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(20).nullish(),
  max_tokens: z.int().min(1).max(MAX_TOKEN_COUNT).nullish(),
  max_completion_tokens: z.int().min(1).max(MAX_TOKEN_COUNT).nullish(),
})

export const chatCompletionSchema = z
  .looseObject({
    ...answerFields,
    choices: z.array(
      z.looseObject({
        index: z.int(),
        message: z.looseObject({ role: z.string(), content: z.string().nullish() }),
        finish_reason: z.string().nullish(),
      }),
    ),
  })
  .meta({ id: 'ChatCompletion' })

/** `POST /v1/chat/completions`. */
export async function createChatCompletion(c: AppContext): Promise<Response> {
  const body = await readJsonBody(c.req.raw, c.var.services.config)
  return serveGeneration(c, parseChatRequest(body))
}

function parseChatRequest({ value, bytes }: JsonBody): GenerationRequest {
  const chat = parseRequest(chatRequestSchema, value)
  const choiceCount = chat.n ?? 1
  return {
    endpoint: 'chat.completions',
    model: chat.model,
    merge: planMerge(chat.tallygate),
    ...readTier(chat.service_tier),
    ...readDegradation(chat.tallygate),
    isStream: chat.stream ?? false,
    wantsUsage: chat.stream_options?.include_usage ?? false,
    wantsAttribution: chat.tallygate?.attribution ?? false,
    choiceCount,
    computedChoiceCount: choiceCount,
    maxCompletionTokens: chat.max_completion_tokens ?? chat.max_tokens ?? null,
    promptTokenBound:
      boundPromptTokens(bytes.length, chat.messages.length) + boundToolTokens(value.tools),
    body: value,
    bodyBytes: bytes,
  }
}
