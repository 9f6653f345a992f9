import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { listLlamaTensors } from '../../gpu-backend/model/llama-tensors.ts'
import type { ModelConfig } from '../../gpu-backend/model/model-source.ts'
import { type EncodedType, encodeWeights } from './encode-weights.ts'
import { encodeGguf } from './gguf-file.ts'
import { createRandom, gaussians } from './random.ts'
import { encodeSafetensors } from './safetensors-file.ts'
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
  normEpsilon: 1e-5,
}

export interface TinyModelOptions {
  readonly seed: number
  readonly config?: Partial<ModelConfig>
  /** Whether the embedding is the head too; default true. */
  readonly isHeadTied?: boolean
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
  const { linearType = 'Q4_1', tableType = 'Q8_0' } = options
  const config = tinyConfig(options)
  const tensors = tinyWeights(options).map(({ role, gguf, shape, values }) => {
    const type = shape.length === 1 ? 'F32' : /^\d/.test(role) ? linearType : tableType
    const isRotated = role.endsWith('.q') || role.endsWith('.k')
    const stored = isRotated ? interleaveRows(values, shape, config.headSize) : values
    return {
      name: gguf,
      shape,
      type: GGML_TYPE_NUMBERS[type],
      data: encodeWeights(type, stored),
    }
  })
  writeFileSync(path, encodeGguf(ggufMetadata(config), tensors))
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
  const { dtype = 'F32', shardCount = 1, isHeadTied = true } = options
  const tensors = tinyWeights(options).map(({ huggingFace, shape, values }) => ({
    name: huggingFace,
    dtype,
    shape,
    data: encodeWeights(dtype, values),
  }))
  mkdirSync(dir, { recursive: true })
  const writeJson = (name: string, value: unknown) =>
    writeFileSync(join(dir, name), JSON.stringify(value))
  writeJson('config.json', folderConfig(tinyConfig(options), isHeadTied))
  writeJson('generation_config.json', { eos_token_id: 2 })
  writeJson('tokenizer_config.json', {
    bos_token: '<|im_start|>',
    eos_token: { content: '<|im_end|>' },
    chat_template: TINY_CHAT_TEMPLATE,
  })
  writeJson('tokenizer.json', tinyTokenizerJson())
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

function tinyConfig({ config }: TinyModelOptions): ModelConfig {
  return { ...TINY_CONFIG, ...config }
}

/** Every tensor with its values, rows in the Hugging Face order. */
function tinyWeights(options: TinyModelOptions) {
  const config = tinyConfig(options)
  const random = createRandom(options.seed)
  return listLlamaTensors(config, options.isHeadTied ?? true).map((tensor) => {
    const count = tensor.shape.reduce((product, extent) => product * extent, 1)
    const isTable = tensor.role === 'embedding' || tensor.role === 'head'
    const isNorm = tensor.shape.length === 1
    const deviation = isTable ? 0.5 : isNorm ? 0.1 : tensor.shape[1]! ** -0.5
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

function ggufMetadata(config: ModelConfig) {
  return {
    'general.architecture': { text: 'llama' },
    'general.name': { text: 'A tiny random model' },
    'llama.block_count': { u32: config.layerCount },
    'llama.embedding_length': { u32: config.hiddenSize },
    'llama.attention.head_count': { u32: config.headCount },
    'llama.attention.head_count_kv': { u32: config.kvHeadCount },
    'llama.attention.key_length': { u32: config.headSize },
    'llama.attention.value_length': { u32: config.headSize },
    'llama.rope.dimension_count': { u32: config.headSize },
    'llama.feed_forward_length': { u32: config.ffnSize },
    'llama.context_length': { u32: config.contextLength },
    'llama.rope.freq_base': { f32: config.ropeTheta },
    'llama.attention.layer_norm_rms_epsilon': { f32: config.normEpsilon },
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
  } as const
}

function folderConfig(config: ModelConfig, isHeadTied: boolean) {
  return {
    architectures: ['LlamaForCausalLM'],
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
    rope_scaling: null,
    rms_norm_eps: config.normEpsilon,
    attention_bias: false,
    tie_word_embeddings: isHeadTied,
    eos_token_id: 2,
  }
}
