import { basename } from 'node:path'
import { decodeBlocks, dequantise, hasExactBlocks } from './ggml-blocks.ts'
import { type GgufTensor, parseGguf } from './gguf.ts'
import { readGgufConfig } from './gguf-config.ts'
import { textsAt } from './gguf-metadata.ts'
import { readGgufTokenizer } from './gguf-tokenizer.ts'
import type { ModelFileError } from './model-file-error.ts'
import { readWeightsFile } from './read-weights-file.ts'
import type { ModelFile, StoredWeights } from './stored-weights.ts'

/** Reads a GGUF file of a Llama-family model. Throws {@link ModelFileError}. */
export async function readGgufModel(path: string): Promise<ModelFile> {
  const { metadata, tensors } = parseGguf(await readWeightsFile(path))
  const { config, isRopeInterleaved } = readGgufConfig(metadata, tensors)
  return {
    name: nameOf(path),
    config,
    tokenizer: readGgufTokenizer(metadata),
    tokenCount: textsAt(metadata, 'tokenizer.ggml.tokens').length,
    naming: 'gguf',
    tensors: new Map([...tensors].map(([name, tensor]) => [name, storedWeights(tensor)])),
    isHeadTied: !tensors.has('output.weight'),
    isRopeInterleaved,
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
