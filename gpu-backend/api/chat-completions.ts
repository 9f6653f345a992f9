import { z } from 'zod'
import { planMerge } from '../../protocol/adapter-merge.ts'
import type { ChatMessage } from '../text/chat-message.ts'
import { answerJob } from './answer.ts'
import { messageSchema } from './chat-messages.ts'
import { createChatWording } from './chat-wording.ts'
import { readJsonBody } from './json-body.ts'
import { planGrammar } from './plan-grammar.ts'
import { refuseFarTooLong } from './prompt-limit.ts'
import { responseFormatSchema } from './response-format.ts'
import {
  checkStreamOptions,
  planMaxTokens,
  planSampling,
  samplingFields,
  unsupportedUnless,
} from './sampling-fields.ts'
import type { BackendContext, Services } from './services.ts'
import { planTools, toolFields } from './tool-fields.ts'

const MAX_TOP_LOGPROB_COUNT = 20

/** `POST /v1/chat/completions`; fields it does not know are let through, as OpenAI's clients add new ones. */
const chatSchema = z
  .object({
    ...samplingFields,
    ...toolFields,
    messages: z.array(messageSchema).min(1),
    max_completion_tokens: z.int().min(1).nullish(),
    max_tokens: z.int().min(1).nullish(),
    functions: unsupportedUnless([], 'functions are not supported; use tools'),
    function_call: unsupportedUnless(['none', 'auto'], 'functions are not supported; use tools'),
    response_format: responseFormatSchema.nullish(),
    logprobs: z.boolean().nullish(),
    top_logprobs: z.int().min(0).max(MAX_TOP_LOGPROB_COUNT).nullish(),
    audio: unsupportedUnless([], 'audio is not supported'),
    web_search_options: unsupportedUnless([], 'web search is not supported'),
  })
  .refine(({ logprobs, top_logprobs }) => !top_logprobs || logprobs === true, {
    path: ['top_logprobs'],
    message: "is only allowed with 'logprobs'",
  })

/** Answers the next turn of a conversation. */
export async function answerChatCompletion(
  c: BackendContext,
  services: Services,
): Promise<Response> {
  const fields = await readJsonBody(c, chatSchema, services.maxBodyBytes)
  checkStreamOptions(fields)
  const { model } = services
  const sampling = planSampling(fields, model.vocabSize)
  const tools = planTools(fields)
  const grammar = planGrammar({ format: fields.response_format ?? null, tools, model })
  refuseFarTooLong([...fields.messages.map(writeOut), JSON.stringify(tools.told)], {
    contextTokens: model.contextTokens,
    encode: model.encodeText,
    param: 'messages',
  })
  const prompt = model.encodeChat(fields.messages, tools.told)
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
      merge: planMerge(fields.tallygate),
      prompts: [{ ...prompt, maxTokens }],
      choiceCount: fields.n ?? 1,
      sampling,
      seed: fields.seed == null ? services.createSeed() : BigInt(fields.seed),
      stop: fields.stop ?? [],
      grammar,
      topLogprobCount: fields.logprobs ? (fields.top_logprobs ?? 0) : null,
      wantsPromptLogprobs: false,
    },
    wording: createChatWording({
      model,
      callable: new Set(tools.callable.map(({ name }) => name)),
      wantsLogprobs: fields.logprobs ?? false,
      createCallId: () => services.createRequestId().replace(/^req_/, 'call_'),
    }),
    isStream: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
  })
}

function writeOut({ content, toolCalls }: ChatMessage): string {
  return toolCalls ? content + JSON.stringify(toolCalls) : content
}
