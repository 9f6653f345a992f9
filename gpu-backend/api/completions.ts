import { setImmediate } from 'node:timers/promises'
import { z } from 'zod'
import { planMerge } from '../../protocol/adapter-merge.ts'
import { BackendError } from '../errors.ts'
import type { ChatPrompt } from '../text/chat-template.ts'
import { answerJob } from './answer.ts'
import { createCompletionWording } from './completion-wording.ts'
import { readJsonBody } from './json-body.ts'
import { refuseFarTooLong } from './prompt-limit.ts'
import {
  checkStreamOptions,
  planMaxTokens,
  planSampling,
  samplingFields,
  textSchema,
  unsupportedUnless,
} from './sampling-fields.ts'
import type { ServedModel } from './served-model.ts'
import type { BackendContext, Services } from './services.ts'

/** OpenAI's default of this endpoint; chat has none. */
const DEFAULT_MAX_TOKENS = 16

const MAX_PROMPT_COUNT = 64

const MAX_LOGPROB_COUNT = 5

const tokensSchema = z.array(z.int().min(0)).min(1)

/** `POST /v1/completions`; fields it does not know are let through. */
const completionSchema = z.object({
  ...samplingFields,
  prompt: z.union(
    [
      textSchema.transform((text) => [text]),
      z.array(textSchema).min(1).max(MAX_PROMPT_COUNT),
      tokensSchema.transform((tokens) => [tokens]),
      z.array(tokensSchema).min(1).max(MAX_PROMPT_COUNT),
    ],
    {
      error: `must be a string, token ids, or up to ${MAX_PROMPT_COUNT} of either in an array`,
    },
  ),
  echo: z.boolean().nullish(),
  best_of: unsupportedUnless([1], 'only 1 is supported'),
  suffix: unsupportedUnless([], 'the model cannot fill in text'),
  max_tokens: z.int().min(0).nullish(),
  logprobs: z.int().min(0).max(MAX_LOGPROB_COUNT).nullish(),
})

/** Continues one or several texts. */
export async function answerCompletion(c: BackendContext, services: Services): Promise<Response> {
  const fields = await readJsonBody(c, completionSchema, services.maxBodyBytes)
  checkStreamOptions(fields)
  const { model } = services
  const sampling = planSampling(fields, model.vocabSize)
  const prompts = await encodePrompts(fields.prompt, model)
  const limit = (prompt: ChatPrompt) =>
    planMaxTokens({
      promptTokenCount: prompt.tokens.length,
      maxTokens: fields.max_tokens ?? null,
      defaultMaxTokens: DEFAULT_MAX_TOKENS,
      contextTokens: model.contextTokens,
      promptParam: 'prompt',
      maxTokensParam: 'max_tokens',
    })
  const choiceCount = fields.n ?? 1
  const isEchoed = fields.echo ?? false
  const topLogprobCount = fields.logprobs ?? null
  return answerJob(c, services, {
    job: {
      requestId: c.var.requestId,
      tenant: c.var.tenant,
      tier: c.var.tier,
      model: fields.model,
      merge: planMerge(fields.tallygate),
      prompts: prompts.map((prompt) => ({ ...prompt, maxTokens: limit(prompt) })),
      choiceCount,
      sampling,
      seed: fields.seed == null ? services.createSeed() : BigInt(fields.seed),
      stop: fields.stop ?? [],
      grammar: null,
      topLogprobCount,
      wantsPromptLogprobs: isEchoed && topLogprobCount !== null,
    },
    wording: createCompletionWording({
      model,
      promptOf: (index) => prompts[Math.floor(index / choiceCount)],
      isEchoed,
      wantsLogprobs: topLogprobCount !== null,
    }),
    isStream: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
  })
}

/** One at a time, with everybody else's streams in between. */
async function encodePrompts(
  prompts: readonly (string | readonly number[])[],
  model: ServedModel,
): Promise<readonly ChatPrompt[]> {
  const encoded: ChatPrompt[] = []
  for (const prompt of prompts) {
    encoded.push(encodePrompt(prompt, model))
    await setImmediate()
  }
  return encoded
}

function encodePrompt(prompt: string | readonly number[], model: ServedModel): ChatPrompt {
  if (typeof prompt !== 'string') {
    const unknown = prompt.find((token) => token >= model.vocabSize)
    if (unknown === undefined) return { text: model.decode(prompt), tokens: prompt }
    throw new BackendError(
      'invalid_request',
      `'prompt': ${unknown} is no token id; the vocabulary has ${model.vocabSize} tokens`,
      { param: 'prompt' },
    )
  }
  refuseFarTooLong([prompt], {
    contextTokens: model.contextTokens,
    encode: model.encodeText,
    param: 'prompt',
  })
  const tokens = model.encodeText(prompt)
  if (tokens.length > 0) return { text: prompt, tokens }
  throw new BackendError('invalid_request', "'prompt': has no tokens", { param: 'prompt' })
}
