import { basename, join, resolve } from 'node:path'
import { z } from 'zod'
import { readFolderConfig } from './folder-config.ts'
import { parseFields, readJson } from './folder-files.ts'
import { readFolderTokenizer } from './folder-tokenizer.ts'
import { ModelFileError } from './model-file-error.ts'
import { readWeightsFile } from './read-weights-file.ts'
import { parseSafetensors, type StoredTensor, toFloat32 } from './safetensors.ts'
import type { ModelFile, StoredWeights } from './stored-weights.ts'

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string().regex(/^[^/\\]+$/)) })

/** Reads a Hugging Face folder of a Llama-family model. Throws {@link ModelFileError}. */
export async function readFolderModel(dir: string): Promise<ModelFile> {
  const { config, isHeadTied, eosTokenIds } = await readFolderConfig(dir)
  return {
    name: basename(resolve(dir)),
    config,
    ...(await readFolderTokenizer(dir, eosTokenIds)),
    naming: 'huggingFace',
    tensors: await readTensors(dir, isHeadTied),
    isHeadTied,
    isRopeInterleaved: false,
  }
}

async function readTensors(
  dir: string,
  isHeadTied: boolean,
): Promise<ReadonlyMap<string, StoredWeights>> {
  const tensors = new Map<string, StoredWeights>()
  for (const fileName of await listWeightFiles(dir)) {
    for (const tensor of await readShard(dir, fileName)) {
      if (tensors.has(tensor.name)) {
        throw new ModelFileError(`Tensor "${tensor.name}" stands in more than one file.`)
      }
      // Some checkpoints carry RoPE's constants, or a copy of the embedding that ties them.
      const isRedundant = tensor.name.endsWith('.rotary_emb.inv_freq')
      if (isRedundant || (isHeadTied && tensor.name === 'lm_head.weight')) continue
      tensors.set(tensor.name, storedWeights(tensor))
    }
  }
  return tensors
}

/** `model.safetensors`, or the shards that the index names. */
async function listWeightFiles(dir: string): Promise<readonly string[]> {
  const index = await readJson(dir, 'model.safetensors.index.json', { optional: true })
  if (index === null) return ['model.safetensors']
  const { weight_map } = parseFields(indexSchema, index, 'model.safetensors.index.json')
  return [...new Set(Object.values(weight_map))].sort()
}

async function readShard(dir: string, fileName: string): Promise<Iterable<StoredTensor>> {
  const file = await readWeightsFile(join(dir, fileName))
  try {
    return parseSafetensors(file).tensors.values()
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    throw new ModelFileError(`${fileName}: ${error.message}`, { cause: error })
  }
}

function storedWeights(tensor: StoredTensor): StoredWeights {
  return {
    name: tensor.name,
    type: tensor.dtype,
    shape: tensor.shape,
    data: tensor.data,
    blocks: null,
    values: () => toFloat32(tensor),
  }
}
