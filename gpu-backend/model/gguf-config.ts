import { dequantise } from './ggml-blocks.ts'
import type { GgufFile } from './gguf.ts'
import { numberAt, textAt } from './gguf-metadata.ts'
import { ModelFileError } from './model-file-error.ts'
import type { ModelConfig } from './model-source.ts'
import { type RopeScaling, yarnMagnitude } from './rope.ts'

type Metadata = GgufFile['metadata']
type Tensors = GgufFile['tensors']

/** Mistral's files are of the `llama` architecture. Only that one stores rows of q and k interleaved. */
const ARCHITECTURES = {
  llama: { hasQkvBias: false, hasQkNorm: false, isRopeInterleaved: true },
  qwen2: { hasQkvBias: true, hasQkNorm: false, isRopeInterleaved: false },
  qwen3: { hasQkvBias: false, hasQkNorm: true, isRopeInterleaved: false },
} as const

/** The shape that a GGUF's metadata describes. Throws {@link ModelFileError}. */
export function readGgufConfig(
  metadata: Metadata,
  tensors: Tensors,
): { config: ModelConfig; isRopeInterleaved: boolean } {
  const architecture = readArchitecture(metadata)
  const { hasQkvBias, hasQkNorm, isRopeInterleaved } = ARCHITECTURES[architecture]
  const at = (key: string, fallback?: number) =>
    numberAt(metadata, `${architecture}.${key}`, fallback)
  if (at('expert_count', 0) > 0) {
    throw new ModelFileError(
      `Mixtures of experts ("${architecture}.expert_count") are not supported.`,
    )
  }
  const hiddenSize = at('embedding_length')
  const headCount = at('attention.head_count')
  const headSize = at('attention.key_length', hiddenSize / headCount)
  for (const key of ['attention.value_length', 'rope.dimension_count']) {
    const size = at(key, headSize)
    if (size !== headSize) {
      throw new ModelFileError(
        `"${architecture}.${key}" is ${size}; it must be the head size ${headSize}.`,
      )
    }
  }
  const trainedLength = at('context_length')
  // Within a sliding window nothing is hidden, so a context that is no longer needs none.
  const window = at('attention.sliding_window', 0) || Number.POSITIVE_INFINITY
  const config: ModelConfig = {
    layerCount: at('block_count'),
    hiddenSize,
    headCount,
    kvHeadCount: at('attention.head_count_kv', headCount),
    headSize,
    ffnSize: at('feed_forward_length'),
    vocabSize: tensors.get('token_embd.weight')?.shape[0] ?? 0,
    contextLength: Math.min(trainedLength, window),
    ropeTheta: at('rope.freq_base', 10_000),
    ropeScaling: readRopeScaling(metadata, tensors, { architecture, trainedLength }),
    normEpsilon: at('attention.layer_norm_rms_epsilon'),
    hasQkvBias,
    hasQkNorm,
  }
  return { config, isRopeInterleaved }
}

function readArchitecture(metadata: Metadata): keyof typeof ARCHITECTURES {
  const name = textAt(metadata, 'general.architecture')
  if (name === 'llama' || name === 'qwen2' || name === 'qwen3') return name
  const served = Object.keys(ARCHITECTURES).join(', ')
  throw new ModelFileError(`The architecture is "${name}"; served are ${served}.`)
}

/** Keys below `rope.scaling.` that do not change what is computed, or are read here. */
const SCALING_KEYS: ReadonlySet<string> = new Set([
  'type',
  'factor',
  'original_context_length',
  'finetuned',
  'yarn_beta_fast',
  'yarn_beta_slow',
])

function readRopeScaling(
  metadata: Metadata,
  tensors: Tensors,
  { architecture, trainedLength }: { architecture: string; trainedLength: number },
): RopeScaling {
  const prefix = `${architecture}.rope.scaling.`
  for (const key of metadata.keys()) {
    const isUnknown = key.startsWith(prefix) && !SCALING_KEYS.has(key.slice(prefix.length))
    if (isUnknown || key === `${architecture}.rope.scale_linear`) {
      throw new ModelFileError(`The RoPE scaling of "${key}" is not supported.`)
    }
  }
  const type = metadata.has(`${prefix}type`) ? textAt(metadata, `${prefix}type`) : 'none'
  const factors = tensors.get('rope_freqs.weight')
  if (factors && type === 'none') {
    return { kind: 'factors', factors: [...dequantise(factors.type, factors.data)] }
  }
  if (type === 'none') return { kind: 'none' }
  if (factors || (type !== 'linear' && type !== 'yarn')) {
    throw new ModelFileError(
      `RoPE scaling "${type}"${factors ? ' with rope_freqs' : ''} is not supported; linear, yarn and rope_freqs alone are.`,
    )
  }
  const factor = numberAt(metadata, `${prefix}factor`)
  if (type === 'linear') return { kind: 'linear', factor }
  return {
    kind: 'yarn',
    factor,
    originalContextLength: numberAt(metadata, `${prefix}original_context_length`, trainedLength),
    betaFast: numberAt(metadata, `${prefix}yarn_beta_fast`, 32),
    betaSlow: numberAt(metadata, `${prefix}yarn_beta_slow`, 1),
    isTruncated: true,
    magnitude: yarnMagnitude(factor),
  }
}
