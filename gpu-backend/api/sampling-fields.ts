import { z } from 'zod'
import { mergeRequestSchema } from '../../protocol/adapter-merge.ts'
import type { SamplingParams } from '../engine/engine-port.ts'
import { BackendError } from '../errors.ts'
import { UNSUPPORTED } from './json-body.ts'

const MAX_CHOICE_COUNT = 8
const MAX_BIAS_COUNT = 1024
const MAX_STOP_COUNT = 4
const MAX_STOP_LENGTH = 1000

/** Text of a caller: a lone surrogate, which no UTF-8 can carry, becomes U+FFFD. */
export const textSchema = z.string().transform((text) => text.toWellFormed())

/** Refuses a parameter unless it is absent, null, an empty list, or one of `harmless`: it asks for nothing. */
export function unsupportedUnless(harmless: readonly unknown[], sentence: string) {
  return z
    .unknown()
    .refine((value) => isAbsent(value) || harmless.includes(value), {
      message: sentence,
      ...UNSUPPORTED,
    })
    .optional()
}

function isAbsent(value: unknown): boolean {
  return value === undefined || value === null || (Array.isArray(value) && value.length === 0)
}

const penalty = z.number().min(-2).max(2).nullish()

/** The fields that chat completions and completions share. Null means the default, as at OpenAI. */
export const samplingFields = {
  model: z.string().min(1),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(-1).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  presence_penalty: penalty,
  frequency_penalty: penalty,
  repetition_penalty: z.number().min(0.01).max(10).nullish(),
  logit_bias: z
    .record(z.string().regex(/^\d{1,9}$/, 'must be a token id'), z.number().min(-100).max(100))
    .refine(
      (biases) => Object.keys(biases).length <= MAX_BIAS_COUNT,
      `must not name more than ${MAX_BIAS_COUNT} tokens`,
    )
    .nullish(),
  seed: z.int().nullish(),
  stop: z
    .union(
      [
        textSchema.pipe(z.string().min(1).max(MAX_STOP_LENGTH)).transform((stop) => [stop]),
        z.array(textSchema.pipe(z.string().min(1).max(MAX_STOP_LENGTH))).max(MAX_STOP_COUNT),
      ],
      {
        error: `must be a string or up to ${MAX_STOP_COUNT} strings, of 1 to ${MAX_STOP_LENGTH} characters each`,
      },
    )
    .nullish(),
  n: z.int().min(1).max(MAX_CHOICE_COUNT).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  user: z.string().nullish(),
  tallygate: mergeRequestSchema.nullish(),
}

type SamplingFields = z.infer<z.ZodObject<typeof samplingFields>>

/** How choices are drawn; the seed is drawn apart, one a choice. */
export function planSampling(
  fields: SamplingFields,
  vocabSize: number,
): Omit<SamplingParams, 'seed'> {
  const logitBias = Object.entries(fields.logit_bias ?? {}).map(
    ([tokenId, bias]) => [Number(tokenId), bias] as const,
  )
  const unknown = logitBias.find(([tokenId]) => tokenId >= vocabSize)
  if (unknown) {
    throw new BackendError(
      'invalid_request',
      `'logit_bias': ${unknown[0]} is no token id; the vocabulary has ${vocabSize} tokens`,
      { param: 'logit_bias' },
    )
  }
  return {
    temperature: fields.temperature ?? 1,
    topP: fields.top_p ?? 1,
    topK: Math.max(0, fields.top_k ?? 0),
    minP: fields.min_p ?? 0,
    presencePenalty: fields.presence_penalty ?? 0,
    frequencyPenalty: fields.frequency_penalty ?? 0,
    repetitionPenalty: fields.repetition_penalty ?? 1,
    logitBias,
  }
}

/** OpenAI refuses `stream_options` on an answer that is not streamed. */
export function checkStreamOptions(fields: SamplingFields): void {
  if (fields.stream_options && !fields.stream) {
    throw new BackendError('invalid_request', "'stream_options': is only allowed with 'stream'", {
      param: 'stream_options',
    })
  }
}

interface LengthLimits {
  readonly promptTokenCount: number
  /** What the caller asks for; null: what fits, at most `defaultMaxTokens`. */
  readonly maxTokens: number | null
  readonly defaultMaxTokens: number
  readonly contextTokens: number
  /** The fields at fault when the prompt alone, or the sum, is too long. */
  readonly promptParam: string
  readonly maxTokensParam: string
}

/** Tokens that the answer may have. Throws `context_length_exceeded` with the numbers. */
export function planMaxTokens(limits: LengthLimits): number {
  const { promptTokenCount, maxTokens, contextTokens } = limits
  const roomTokenCount = contextTokens - promptTokenCount
  if (roomTokenCount < Math.min(1, maxTokens ?? 1)) {
    throw new BackendError(
      'context_length_exceeded',
      `The model's context is ${contextTokens} tokens, and the prompt has ${promptTokenCount} of them, which leaves none for an answer.`,
      { param: limits.promptParam },
    )
  }
  if (maxTokens !== null && maxTokens > roomTokenCount) {
    throw new BackendError(
      'context_length_exceeded',
      `The model's context is ${contextTokens} tokens: ${promptTokenCount} of the prompt and ${maxTokens} asked for by '${limits.maxTokensParam}' do not fit.`,
      { param: limits.maxTokensParam },
    )
  }
  return maxTokens ?? Math.min(limits.defaultMaxTokens, roomTokenCount)
}
