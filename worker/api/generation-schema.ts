import { z } from 'zod'
import { mergeRequestSchema } from '../../protocol/adapter-merge.ts'

/** The most answers one request may ask for. */
const MAX_CHOICE_COUNT = 128

/** No model's context is longer; keeps sums of token counts exact. */
export const MAX_TOKEN_COUNT = 10_000_000

export const choiceCountSchema = z.int().min(1).max(MAX_CHOICE_COUNT)

/**
 * What both text operations share. OpenAI treats a null like a missing field, so these do. Objects
 * are loose: what is not named here is the backend's to judge.
 */
export const generationFields = {
  model: z.string().min(1).max(200),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  n: choiceCountSchema.nullish(),
  max_tokens: z.int().min(0).max(MAX_TOKEN_COUNT).nullish(),
  tallygate: mergeRequestSchema
    .and(
      z.looseObject({
        attribution: z.boolean().nullish(),
        /** An earlier answer to the same request may be given again, free of charge. */
        cache: z.boolean().nullish(),
      }),
    )
    .nullish(),
}
