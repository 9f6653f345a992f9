import { z } from 'zod'
import type { ChatMessage } from '../text/chat-template.ts'
import { type AnswerWording, answerJob } from './answer.ts'
import { readJsonBody, UNSUPPORTED } from './json-body.ts'
import { refuseFarTooLong } from './prompt-limit.ts'
import {
  checkStreamOptions,
  planMaxTokens,
  planSampling,
  samplingFields,
  textSchema,
  unsupportedUnless,
} from './sampling-fields.ts'
import type { BackendContext, Services } from './services.ts'

const contentPart = z
  .looseObject({ type: z.string() })
  .refine((part) => part.type === 'text', {
    message: 'only text parts are supported',
    path: ['type'],
    ...UNSUPPORTED,
  })
  .pipe(z.object({ type: z.literal('text'), text: textSchema }))

const contentSchema = z.preprocess(
  (content) => (typeof content === 'string' ? [{ type: 'text', text: content }] : content),
  z
    .array(contentPart, { error: 'must be a string or an array of text parts' })
    .min(1)
    .transform((parts) => parts.map((part) => part.text).join('')),
)

const messageSchema = z
  .object({
    role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
    content: contentSchema,
    tool_calls: unsupportedUnless([], 'tool calls are not supported'),
    function_call: unsupportedUnless([], 'tool calls are not supported'),
  })
  .transform(
    ({ role, content }): ChatMessage => ({ role: role === 'developer' ? 'system' : role, content }),
  )

/** `POST /v1/chat/completions`; fields it does not know are let through, as OpenAI's clients add new ones. */
const chatSchema = z.object({
  ...samplingFields,
  messages: z.array(messageSchema).min(1),
  max_completion_tokens: z.int().min(1).nullish(),
  tools: unsupportedUnless([], 'tools are not supported'),
  functions: unsupportedUnless([], 'functions are not supported'),
  tool_choice: unsupportedUnless(['none', 'auto'], 'tools are not supported'),
  function_call: unsupportedUnless(['none', 'auto'], 'functions are not supported'),
  response_format: z
    .looseObject({ type: z.string() })
    .refine((format) => format.type === 'text', {
      message: 'only "text" is supported',
      ...UNSUPPORTED,
    })
    .nullish(),
  logprobs: unsupportedUnless([false], 'log probabilities are not supported'),
  top_logprobs: unsupportedUnless([0], 'log probabilities are not supported'),
  audio: unsupportedUnless([], 'audio is not supported'),
  web_search_options: unsupportedUnless([], 'web search is not supported'),
})

const WORDING: AnswerWording = {
  idPrefix: 'chatcmpl',
  object: 'chat.completion',
  chunkObject: 'chat.completion.chunk',
  opening: () => ({ delta: { role: 'assistant' } }),
  piece: (_, text, { isLast }) => ({ delta: isLast && text === '' ? {} : { content: text } }),
  whole: (_, content) => ({ message: { role: 'assistant', content, refusal: null } }),
}

/** Answers the next turn of a conversation. */
export async function answerChatCompletion(
  c: BackendContext,
  services: Services,
): Promise<Response> {
  const fields = await readJsonBody(c, chatSchema, services.maxBodyBytes)
  checkStreamOptions(fields)
  const { model } = services
  const sampling = planSampling(fields, model.vocabSize)
  refuseFarTooLong(
    fields.messages.map((message) => message.content),
    { contextTokens: model.contextTokens, encode: model.encodeText, param: 'messages' },
  )
  const prompt = model.encodeChat(fields.messages)
  const maxTokens = planMaxTokens({
    promptTokenCount: prompt.tokens.length,
    maxTokens: fields.max_completion_tokens ?? fields.max_tokens ?? null,
    defaultMaxTokens: model.contextTokens,
    contextTokens: model.contextTokens,
    promptParam: 'messages',
    maxTokensParam: fields.max_completion_tokens ? 'max_completion_tokens' : 'max_tokens',
  })
  return answerJob(c, services, {
    job: {
      requestId: c.var.requestId,
      tenant: c.var.tenant,
      tier: c.var.tier,
      model: fields.model,
      prompts: [{ ...prompt, maxTokens }],
      choiceCount: fields.n ?? 1,
      sampling,
      seed: fields.seed == null ? services.createSeed() : BigInt(fields.seed),
      stop: fields.stop ?? [],
    },
    wording: WORDING,
    isStream: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
  })
}
