import { basename } from 'node:path'
import { decodeBlocks, dequantise, hasExactBlocks } from './ggml-blocks.ts'
import { type GgufFile, type GgufTensor, parseGguf } from './gguf.ts'
import { numberAt, textAt, textsAt } from './gguf-metadata.ts'
import { readGgufTokenizer } from './gguf-tokenizer.ts'
import { ModelFileError } from './model-file-error.ts'
import type { ModelConfig } from './model-source.ts'
import { readWeightsFile } from './read-weights-file.ts'
import type { ModelFile, StoredWeights } from './stored-weights.ts'

/** Reads a GGUF file of the `llama` architecture. Throws {@link ModelFileError}. */
export async function readGgufModel(path: string): Promise<ModelFile> {
  const { metadata, tensors } = parseGguf(await readWeightsFile(path))
  const config = readConfig(metadata, tensors.get('token_embd.weight')?.shape[0] ?? 0)
  return {
    name: nameOf(path),
    config,
    tokenizer: readGgufTokenizer(metadata),
    tokenCount: textsAt(metadata, 'tokenizer.ggml.tokens').length,
    naming: 'gguf',
    tensors: new Map([...tensors].map(([name, tensor]) => [name, storedWeights(tensor)])),
    isHeadTied: !tensors.has('output.weight'),
    isRopeInterleaved: true,
  }
}

/** `general.name` is often a training run's label; the file's name without its quantisation is what people call it. */
function nameOf(path: string): string {
  const stem = basename(path).replace(/\.gguf$/i, '')
  return stem.replace(/[-._](i?q\d\w*|f16|f32|bf16)$/i, '')
}

function storedWeights({ name, type, shape, data }: GgufTensor): StoredWeights {
  return {
    name,
    type,
    shape,
    data,
    blocks: hasExactBlocks(type) ? () => decodeBlocks(type, data) : null,
    values: () => dequantise(type, data),
  }
}

function readConfig(metadata: GgufFile['metadata'], vocabSize: number): ModelConfig {
  const architecture = textAt(metadata, 'general.architecture')
  if (architecture !== 'llama') {
    throw new ModelFileError(`The architecture is "${architecture}"; only "llama" is served.`)
  }
  const scaling = metadata.get('llama.rope.scaling.type') ?? 'none'
  if (scaling !== 'none' || metadata.has('llama.rope.scale_linear')) {
    throw new ModelFileError(`RoPE scaling ("${scaling}") is not supported.`)
  }
  if (numberAt(metadata, 'llama.expert_count', 0) > 0) {
    throw new ModelFileError('Mixtures of experts ("llama.expert_count") are not supported.')
  }
  const hiddenSize = numberAt(metadata, 'llama.embedding_length')
  const headCount = numberAt(metadata, 'llama.attention.head_count')
  const headSize = numberAt(metadata, 'llama.attention.key_length', hiddenSize / headCount)
  for (const key of ['llama.attention.value_length', 'llama.rope.dimension_count']) {
    const size = numberAt(metadata, key, headSize)
    if (size !== headSize) {
      throw new ModelFileError(`"${key}" is ${size}; it must be the head size ${headSize}.`)
    }
  }
  return {
    layerCount: numberAt(metadata, 'llama.block_count'),
    hiddenSize,
    headCount,
    kvHeadCount: numberAt(metadata, 'llama.attention.head_count_kv', headCount),
    headSize,
    ffnSize: numberAt(metadata, 'llama.feed_forward_length'),
    vocabSize,
    contextLength: numberAt(metadata, 'llama.context_length'),
    ropeTheta: numberAt(metadata, 'llama.rope.freq_base', 10_000),
    normEpsilon: numberAt(metadata, 'llama.attention.layer_norm_rms_epsilon'),
  }
}
