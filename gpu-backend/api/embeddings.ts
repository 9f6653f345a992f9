import { setImmediate } from 'node:timers/promises'
import { z } from 'zod'
import { mergeRequestSchema, planMerge } from '../../protocol/adapter-merge.ts'
import { BackendError } from '../errors.ts'
import type { ChatPrompt } from '../text/chat-template.ts'
import { type EmbeddingJob, embedInputs } from './embedding-job.ts'
import { readJsonBody } from './json-body.ts'
import { refuseFarTooLong } from './prompt-limit.ts'
import { textSchema } from './sampling-fields.ts'
import type { ServedModel } from './served-model.ts'
import type { BackendContext, Services } from './services.ts'

/** OpenAI's own limit. */
const MAX_INPUT_COUNT = 2048

const tokensSchema = z.array(z.int().min(0)).min(1)

/** `POST /v1/embeddings`; fields it does not know are let through. */
const embeddingSchema = z.object({
  model: z.string().min(1),
  input: z.union(
    [
      textSchema.transform((text) => [text]),
      z.array(textSchema).min(1).max(MAX_INPUT_COUNT),
      tokensSchema.transform((tokens) => [tokens]),
      z.array(tokensSchema).min(1).max(MAX_INPUT_COUNT),
    ],
    { error: `must be a string, token ids, or up to ${MAX_INPUT_COUNT} of either in an array` },
  ),
  encoding_format: z.enum(['float', 'base64']).nullish(),
  dimensions: z.int().min(1).nullish(),
  tallygate: mergeRequestSchema.nullish(),
})

/**
 * A vector of length 1 for each input: the mean of its tokens' states after the model's final norm.
 * With `dimensions` only the first so many count.
 */
export async function answerEmbeddings(c: BackendContext, services: Services): Promise<Response> {
  const fields = await readJsonBody(c, embeddingSchema, services.maxBodyBytes)
  const { model } = services
  const { dimensions } = fields
  if (dimensions && dimensions > model.hiddenSize) {
    const message = `'dimensions': is at most ${model.hiddenSize} for this model`
    throw new BackendError('invalid_request', message, { param: 'dimensions' })
  }
  const job: EmbeddingJob = {
    requestId: c.var.requestId,
    tenant: c.var.tenant,
    tier: c.var.tier,
    model: fields.model,
    merge: planMerge(fields.tallygate),
    inputs: await encodeInputs(fields.input, model),
    finish: (mean) => encodeBytes(normalise(mean.subarray(0, dimensions ?? mean.length))),
  }
  const { vectors, usage, provenance } = await embedInputs(services, job, c.req.raw.signal)
  const present = fields.encoding_format === 'base64' ? identity : listFloats
  return c.json({
    object: 'list',
    data: vectors.map((base64, index) => ({
      object: 'embedding',
      index,
      embedding: present(base64),
    })),
    model: fields.model,
    usage,
    tallygate: provenance,
  })
}

/** One at a time, with everybody else's streams in between. */
async function encodeInputs(
  inputs: readonly (string | readonly number[])[],
  model: ServedModel,
): Promise<readonly ChatPrompt[]> {
  const encoded: ChatPrompt[] = []
  for (const input of inputs) {
    encoded.push(typeof input === 'string' ? encodeText(input, model) : checkTokens(input, model))
    await setImmediate()
  }
  return encoded
}

function encodeText(text: string, model: ServedModel): ChatPrompt {
  const { contextTokens, encodeText: encode } = model
  refuseFarTooLong([text], { contextTokens, encode, param: 'input' })
  return checkLength({ text, tokens: encode(text) }, contextTokens)
}

function checkTokens(tokens: readonly number[], model: ServedModel): ChatPrompt {
  const unknown = tokens.find((token) => token >= model.vocabSize)
  if (unknown === undefined) {
    return checkLength({ text: model.decode(tokens), tokens }, model.contextTokens)
  }
  throw new BackendError(
    'invalid_request',
    `'input': ${unknown} is no token id; the vocabulary has ${model.vocabSize} tokens`,
    { param: 'input' },
  )
}

function checkLength(input: ChatPrompt, contextTokens: number): ChatPrompt {
  const { length } = input.tokens
  if (length === 0) {
    throw new BackendError('invalid_request', "'input': has no tokens", { param: 'input' })
  }
  if (length <= contextTokens) return input
  throw new BackendError(
    'context_length_exceeded',
    `The model's context is ${contextTokens} tokens, and an input has ${length}.`,
    { param: 'input' },
  )
}

function normalise(vector: Float32Array): Float32Array {
  const length = Math.hypot(...vector)
  return length === 0 ? vector : vector.map((value) => value / length)
}

/** Little-endian float32, as OpenAI's clients read them. */
function encodeBytes(vector: Float32Array): string {
  return Buffer.from(vector.buffer, vector.byteOffset, vector.byteLength).toString('base64')
}

function listFloats(base64: string): number[] {
  const bytes = Buffer.from(base64, 'base64')
  return Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(4 * i))
}

function identity(base64: string): string {
  return base64
}
