import { z } from 'zod'
import { parseFields, readJson } from './folder-files.ts'
import { tokenIdsSchema } from './folder-tokenizer.ts'
import { ModelFileError } from './model-file-error.ts'
import type { ModelConfig } from './model-source.ts'
import { type RopeScaling, yarnMagnitude } from './rope.ts'

interface Family {
  readonly hasQkvBias: boolean
  readonly hasQkNorm: boolean
  /** What Hugging Face's configuration class has for a field that the file leaves out; null: as many as query heads, or hidden size by heads. */
  readonly kvHeadCount: number | null
  readonly headSize: number | null
  /** Whether `sliding_window` counts without `use_sliding_window`, and what it is when left out. */
  readonly slidingWindow: { readonly isAlwaysOn: boolean; readonly fallback: number | null }
}

const NO_WINDOW = { isAlwaysOn: false, fallback: null } as const

const FAMILIES = {
  LlamaForCausalLM: {
    hasQkvBias: false,
    hasQkNorm: false,
    kvHeadCount: null,
    headSize: null,
    slidingWindow: NO_WINDOW,
  },
  MistralForCausalLM: {
    hasQkvBias: false,
    hasQkNorm: false,
    kvHeadCount: 8,
    headSize: null,
    slidingWindow: { isAlwaysOn: true, fallback: 4096 },
  },
  Qwen2ForCausalLM: {
    hasQkvBias: true,
    hasQkNorm: false,
    kvHeadCount: 32,
    headSize: null,
    slidingWindow: { isAlwaysOn: false, fallback: 4096 },
  },
  Qwen3ForCausalLM: {
    hasQkvBias: false,
    hasQkNorm: true,
    kvHeadCount: 32,
    headSize: 128,
    slidingWindow: { isAlwaysOn: false, fallback: 4096 },
  },
} as const satisfies Record<string, Family>

// `Object.keys` forgets the type of a constant's keys.
const ARCHITECTURES = Object.keys(FAMILIES) as (keyof typeof FAMILIES)[]

const positive = z.number().positive()

const ropeSchema = z.object({
  rope_type: z.string().optional(),
  /** The older name of `rope_type`. */
  type: z.string().optional(),
  rope_theta: positive.optional(),
  partial_rotary_factor: z.literal(1, 'partly rotated heads are not supported').nullish(),
  factor: positive.nullish(),
  original_max_position_embeddings: positive.nullish(),
  low_freq_factor: positive.nullish(),
  high_freq_factor: positive.nullish(),
  beta_fast: positive.nullish(),
  beta_slow: positive.nullish(),
  attention_factor: positive.nullish(),
  mscale: z.number().nullish(),
  mscale_all_dim: z.number().nullish(),
  truncate: z.boolean().nullish(),
})

/** The fields of a `config.json` that change what these models compute. Others are ignored. */
const configSchema = z.object({
  architectures: z.tuple([
    z.enum(ARCHITECTURES, {
      error: ({ input }) => `${String(input)} is not served, only ${ARCHITECTURES.join(', ')}`,
    }),
  ]),
  hidden_act: z.literal('silu').optional(),
  hidden_size: z.int(),
  num_hidden_layers: z.int(),
  num_attention_heads: z.int(),
  num_key_value_heads: z.int().nullish(),
  head_dim: z.int().nullish(),
  intermediate_size: z.int(),
  vocab_size: z.int(),
  max_position_embeddings: z.int(),
  sliding_window: z.int().positive().nullish(),
  use_sliding_window: z.boolean().nullish(),
  rope_theta: positive.nullish(),
  rope_scaling: ropeSchema.nullish(),
  /** Where newer files have `rope_theta` and `rope_scaling`. */
  rope_parameters: ropeSchema.nullish(),
  partial_rotary_factor: z.literal(1, 'partly rotated heads are not supported').nullish(),
  rope_interleaved: z.literal(false).optional(),
  rms_norm_eps: z.number().default(1e-6),
  attention_bias: z
    .literal(false, 'biases of all four attention layers are not supported')
    .optional(),
  mlp_bias: z.literal(false, 'MLP biases are not supported').optional(),
  quantization_config: z.null('quantised checkpoints are not supported').optional(),
  tie_word_embeddings: z.boolean().default(false),
  eos_token_id: tokenIdsSchema,
})

type ConfigFields = z.infer<typeof configSchema>

/** What a folder's `config.json` says. Rejects with {@link ModelFileError}. */
export async function readFolderConfig(dir: string) {
  const fields = parseFields(configSchema, await readJson(dir, 'config.json'), 'config.json')
  return {
    config: modelConfig(fields),
    isHeadTied: fields.tie_word_embeddings,
    eosTokenIds: fields.eos_token_id,
  }
}

function modelConfig(fields: ConfigFields): ModelConfig {
  const family = FAMILIES[fields.architectures[0]]
  const headCount = fields.num_attention_heads
  const rope = { ...fields.rope_parameters, ...fields.rope_scaling }
  return {
    layerCount: fields.num_hidden_layers,
    hiddenSize: fields.hidden_size,
    headCount,
    kvHeadCount: withDefault(fields.num_key_value_heads, family.kvHeadCount) ?? headCount,
    headSize: withDefault(fields.head_dim, family.headSize) ?? fields.hidden_size / headCount,
    ffnSize: fields.intermediate_size,
    vocabSize: fields.vocab_size,
    contextLength: Math.min(fields.max_position_embeddings, slidingWindow(fields, family)),
    ropeTheta: rope.rope_theta ?? fields.rope_theta ?? 10_000,
    ropeScaling: ropeScaling(rope, fields.max_position_embeddings),
    normEpsilon: fields.rms_norm_eps,
    hasQkvBias: family.hasQkvBias,
    hasQkNorm: family.hasQkNorm,
  }
}

/** A field that is left out has the family's default, one that is null has none. */
function withDefault(value: number | null | undefined, fallback: number | null): number | null {
  return value === undefined ? fallback : value
}

/**
 * Tokens that a token attends to. Up to that length a window hides nothing, so a context that is no
 * longer is computed exactly without one.
 */
function slidingWindow(fields: ConfigFields, { slidingWindow: rule }: Family): number {
  const isOn = rule.isAlwaysOn || (rule.fallback !== null && fields.use_sliding_window === true)
  const window = isOn ? withDefault(fields.sliding_window, rule.fallback) : null
  return window ?? Number.POSITIVE_INFINITY
}

type RopeFields = z.infer<typeof ropeSchema>

function ropeScaling(rope: RopeFields, maxPositions: number): RopeScaling {
  const kind = rope.rope_type ?? rope.type ?? 'default'
  const originalContextLength = rope.original_max_position_embeddings ?? maxPositions
  const need = (name: 'factor' | 'low_freq_factor' | 'high_freq_factor'): number => {
    const value = rope[name]
    if (value != null) return value
    throw new ModelFileError(`config.json: RoPE scaling "${kind}" needs "${name}".`)
  }
  switch (kind) {
    case 'default':
      return { kind: 'none' }
    case 'linear':
      return { kind, factor: need('factor') }
    case 'llama3':
      return {
        kind,
        factor: need('factor'),
        lowFreqFactor: need('low_freq_factor'),
        highFreqFactor: need('high_freq_factor'),
        originalContextLength,
      }
    case 'yarn': {
      const factor = need('factor')
      return {
        kind,
        factor,
        originalContextLength,
        betaFast: rope.beta_fast ?? 32,
        betaSlow: rope.beta_slow ?? 1,
        isTruncated: rope.truncate ?? true,
        magnitude: rope.attention_factor ?? defaultMagnitude(factor, rope),
      }
    }
    default:
      throw new ModelFileError(
        `config.json: RoPE scaling "${kind}" is not supported; default, linear, llama3 and yarn are.`,
      )
  }
}

function defaultMagnitude(factor: number, { mscale, mscale_all_dim }: RopeFields): number {
  if (!mscale || !mscale_all_dim) return yarnMagnitude(factor)
  return yarnMagnitude(factor, mscale) / yarnMagnitude(factor, mscale_all_dim)
}
