import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { listLlamaTensors } from '../../gpu-backend/model/llama-tensors.ts'
import type { ModelConfig } from '../../gpu-backend/model/model-source.ts'
import { type EncodedType, encodeWeights } from './encode-weights.ts'
import { encodeGguf, type GgufField } from './gguf-file.ts'
import { createRandom, gaussians } from './random.ts'
import { encodeSafetensors } from './safetensors-file.ts'
import { ggufPieces, PIECE_VECTORS, PIECES_CHAT_TEMPLATE, TINY_PIECES } from './tiny-pieces.ts'
import { TINY_CHAT_TEMPLATE, TINY_MERGES, TINY_SPECIALS, TINY_TOKENS } from './tiny-tokenizer.ts'

export const TINY_CONFIG: ModelConfig = {
  layerCount: 2,
  hiddenSize: 64,
  headCount: 4,
  kvHeadCount: 2,
  headSize: 16,
  ffnSize: 128,
  vocabSize: TINY_TOKENS.length,
  contextLength: 512,
  ropeTheta: 10_000,
  ropeScaling: { kind: 'none' },
  normEpsilon: 1e-5,
  hasQkvBias: false,
  hasQkNorm: false,
}

/** What a family adds to the tiny config, and what its files are called. */
const TINY_FAMILIES = {
  llama: { architecture: 'LlamaForCausalLM', gguf: 'llama', config: {} },
  mistral: { architecture: 'MistralForCausalLM', gguf: 'llama', config: { headSize: 32 } },
  qwen2: { architecture: 'Qwen2ForCausalLM', gguf: 'qwen2', config: { hasQkvBias: true } },
  qwen3: {
    architecture: 'Qwen3ForCausalLM',
    gguf: 'qwen3',
    config: { hasQkNorm: true, headSize: 32 },
  },
} as const satisfies Record<
  string,
  { architecture: string; gguf: string; config: Partial<ModelConfig> }
>

export type TinyFamily = keyof typeof TINY_FAMILIES

export interface TinyModelOptions {
  readonly seed: number
  /** Default `llama`. */
  readonly family?: TinyFamily
  readonly config?: Partial<ModelConfig>
  /** Whether the embedding is the head too; default true. */
  readonly isHeadTied?: boolean
  /** Default `byteLevel`. */
  readonly vocabulary?: 'byteLevel' | 'pieces'
}

const GGML_TYPE_NUMBERS = { F32: 0, F16: 1, Q4_0: 2, Q4_1: 3, Q8_0: 8, BF16: 30 } as const

/**
 * Writes a random Llama-shaped model as a GGUF file, for `--model PATH`. One seed gives one set of
 * weights, in either format. Control tokens are very unlikely, so answers end by their length.
 */
export function writeTinyGguf(
  path: string,
  options: TinyModelOptions & {
    /** Of the linear layers; default Q4_1. Norms are F32. */
    readonly linearType?: EncodedType
    /** Of embedding and head; default Q8_0. */
    readonly tableType?: EncodedType
  },
): void {
  const { linearType = 'Q4_1', tableType = 'Q8_0', family = 'llama' } = options
  const config = tinyConfig(options)
  const tensors = tinyWeights(options).map(({ role, gguf, shape, values }) => {
    const type = shape.length === 1 ? 'F32' : /^\d/.test(role) ? linearType : tableType
    const isRotated = role.endsWith('.q') || role.endsWith('.k')
    const isInterleaved = isRotated && TINY_FAMILIES[family].gguf === 'llama'
    const stored = isInterleaved ? interleaveRows(values, shape, config.headSize) : values
    return {
      name: gguf,
      shape,
      type: GGML_TYPE_NUMBERS[type],
      data: encodeWeights(type, stored),
    }
  })
  const metadata = {
    ...ggufMetadata(config, TINY_FAMILIES[family].gguf),
    ...(options.vocabulary === 'pieces' ? ggufPieces() : ggufByteLevel()),
  }
  writeFileSync(path, encodeGguf(metadata, tensors))
}

/** Writes the same model as a Hugging Face folder, in one safetensors file or several shards. */
export function writeTinyFolder(
  dir: string,
  options: TinyModelOptions & {
    /** Default F32. */
    readonly dtype?: 'F32' | 'F16' | 'BF16'
    readonly shardCount?: number
  },
): void {
  const { dtype = 'F32', shardCount = 1 } = options
  const tensors = tinyWeights(options).map(({ huggingFace, shape, values }) => ({
    name: huggingFace,
    dtype,
    shape,
    data: encodeWeights(dtype, values),
  }))
  mkdirSync(dir, { recursive: true })
  const writeJson = (name: string, value: unknown) =>
    writeFileSync(join(dir, name), JSON.stringify(value))
  writeJson('config.json', folderConfig(options))
  writeJson('generation_config.json', { eos_token_id: 2 })
  const isPieces = options.vocabulary === 'pieces'
  writeJson('tokenizer_config.json', {
    bos_token: isPieces ? '<s>' : '<|im_start|>',
    eos_token: { content: isPieces ? '</s>' : '<|im_end|>' },
    chat_template: isPieces ? PIECES_CHAT_TEMPLATE : TINY_CHAT_TEMPLATE,
    ...(isPieces && { add_bos_token: true }),
  })
  writeJson('tokenizer.json', isPieces ? PIECE_VECTORS.tokenizerJson : tinyTokenizerJson())
  if (shardCount === 1) {
    writeFileSync(join(dir, 'model.safetensors'), encodeSafetensors(tensors))
    return
  }
  const shardOf = (index: number) => `model-${index % shardCount}.safetensors`
  for (let shard = 0; shard < shardCount; shard++) {
    const part = tensors.filter((_, index) => index % shardCount === shard)
    writeFileSync(join(dir, shardOf(shard)), encodeSafetensors(part))
  }
  writeJson('model.safetensors.index.json', {
    weight_map: Object.fromEntries(tensors.map(({ name }, index) => [name, shardOf(index)])),
  })
}

/** The tiny model's `tokenizer.json`. */
export function tinyTokenizerJson() {
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, use_regex: true }
  return {
    added_tokens: TINY_SPECIALS.map((content, id) => ({ id, content, special: true })),
    normalizer: null,
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel],
    },
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(TINY_TOKENS.map((token, id) => [token, id])),
      merges: TINY_MERGES,
    },
  }
}

function tinyConfig({ config, family = 'llama', vocabulary }: TinyModelOptions): ModelConfig {
  const pieces = vocabulary === 'pieces' && { vocabSize: TINY_PIECES.tokens.length }
  return { ...TINY_CONFIG, ...pieces, ...TINY_FAMILIES[family].config, ...config }
}

/** Every tensor with its values, rows in the Hugging Face order. */
function tinyWeights(options: TinyModelOptions) {
  const config = tinyConfig(options)
  const random = createRandom(options.seed)
  return listLlamaTensors(config, options.isHeadTied ?? true).map((tensor) => {
    if (tensor.role === 'ropeFactors' && config.ropeScaling.kind === 'factors') {
      return { ...tensor, values: Float32Array.from(config.ropeScaling.factors) }
    }
    const count = tensor.shape.reduce((product, extent) => product * extent, 1)
    const isTable = tensor.role === 'embedding' || tensor.role === 'head'
    const isBias = tensor.role.endsWith('Bias')
    const isNorm = tensor.shape.length === 1 && !isBias
    const deviation = isTable || isBias ? 0.5 : isNorm ? 0.1 : tensor.shape[1]! ** -0.5
    const values = gaussians(random, count, deviation)
    if (isNorm) for (let i = 0; i < count; i++) values[i] = 1 + values[i]!
    if (isTable) {
      const specials = values.subarray(0, TINY_SPECIALS.length * config.hiddenSize)
      specials.forEach((value, i) => {
        specials[i] = value / 100
      })
    }
    return { ...tensor, values }
  })
}

/** As llama.cpp's converter permutes q and k: `reshape(heads, 2, D/2, in).swapaxes(1, 2)`. */
function interleaveRows(
  values: Float32Array,
  shape: readonly number[],
  headSize: number,
): Float32Array {
  const rowLength = shape[1]!
  const interleaved = new Float32Array(values.length)
  for (let row = 0; row < shape[0]!; row++) {
    const inHead = row % headSize
    const half = Math.floor(inHead / (headSize / 2))
    const to = row - inHead + 2 * (inHead % (headSize / 2)) + half
    interleaved.set(values.subarray(row * rowLength, (row + 1) * rowLength), to * rowLength)
  }
  return interleaved
}

function ggufMetadata(config: ModelConfig, architecture: string): Record<string, GgufField> {
  const shape: Record<string, GgufField> = {
    block_count: { u32: config.layerCount },
    embedding_length: { u32: config.hiddenSize },
    'attention.head_count': { u32: config.headCount },
    'attention.head_count_kv': { u32: config.kvHeadCount },
    'attention.key_length': { u32: config.headSize },
    'attention.value_length': { u32: config.headSize },
    'rope.dimension_count': { u32: config.headSize },
    feed_forward_length: { u32: config.ffnSize },
    context_length: { u32: config.contextLength },
    'rope.freq_base': { f32: config.ropeTheta },
    'attention.layer_norm_rms_epsilon': { f32: config.normEpsilon },
    ...ggufScaling(config),
  }
  return {
    'general.architecture': { text: architecture },
    'general.name': { text: 'A tiny random model' },
    ...Object.fromEntries(
      Object.entries(shape).map(([key, field]) => [`${architecture}.${key}`, field]),
    ),
  }
}

function ggufByteLevel(): Record<string, GgufField> {
  return {
    'tokenizer.ggml.model': { text: 'gpt2' },
    'tokenizer.ggml.pre': { text: 'smollm' },
    'tokenizer.ggml.tokens': { texts: TINY_TOKENS },
    'tokenizer.ggml.token_type': {
      i32s: TINY_TOKENS.map((_, id) => (id < TINY_SPECIALS.length ? 3 : 1)),
    },
    'tokenizer.ggml.merges': { texts: TINY_MERGES },
    'tokenizer.ggml.bos_token_id': { u32: 1 },
    'tokenizer.ggml.eos_token_id': { u32: 2 },
    'tokenizer.ggml.add_bos_token': { bool: false },
    'tokenizer.chat_template': { text: TINY_CHAT_TEMPLATE },
  }
}

function ggufScaling({ ropeScaling }: ModelConfig): Record<string, GgufField> {
  switch (ropeScaling.kind) {
    case 'none':
    case 'factors':
      return {}
    case 'linear':
      return {
        'rope.scaling.type': { text: 'linear' },
        'rope.scaling.factor': { f32: ropeScaling.factor },
      }
    case 'yarn':
      return {
        'rope.scaling.type': { text: 'yarn' },
        'rope.scaling.factor': { f32: ropeScaling.factor },
        'rope.scaling.original_context_length': { u32: ropeScaling.originalContextLength },
      }
    case 'llama3':
      throw new Error('a GGUF has factors instead')
  }
}

function folderConfig(options: TinyModelOptions) {
  const config = tinyConfig(options)
  return {
    architectures: [TINY_FAMILIES[options.family ?? 'llama'].architecture],
    model_type: options.family ?? 'llama',
    hidden_act: 'silu',
    hidden_size: config.hiddenSize,
    num_hidden_layers: config.layerCount,
    num_attention_heads: config.headCount,
    num_key_value_heads: config.kvHeadCount,
    head_dim: config.headSize,
    intermediate_size: config.ffnSize,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.contextLength,
    rope_theta: config.ropeTheta,
    rope_scaling: folderScaling(config),
    rms_norm_eps: config.normEpsilon,
    sliding_window: null,
    attention_bias: false,
    tie_word_embeddings: options.isHeadTied ?? true,
    eos_token_id: 2,
  }
}

function folderScaling({ ropeScaling }: ModelConfig) {
  switch (ropeScaling.kind) {
    case 'none':
      return null
    case 'linear':
      return { rope_type: 'linear', factor: ropeScaling.factor }
    case 'llama3':
      return {
        rope_type: 'llama3',
        factor: ropeScaling.factor,
        low_freq_factor: ropeScaling.lowFreqFactor,
        high_freq_factor: ropeScaling.highFreqFactor,
        original_max_position_embeddings: ropeScaling.originalContextLength,
      }
    case 'yarn':
      return {
        rope_type: 'yarn',
        factor: ropeScaling.factor,
        original_max_position_embeddings: ropeScaling.originalContextLength,
        beta_fast: ropeScaling.betaFast,
        beta_slow: ropeScaling.betaSlow,
      }
    case 'factors':
      throw new Error('only a GGUF has factors')
  }
}
