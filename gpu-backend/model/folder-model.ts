import { basename, join, resolve } from 'node:path'
import { z } from 'zod'
import { parseFields, readJson } from './folder-files.ts'
import { readFolderTokenizer, tokenIdsSchema } from './folder-tokenizer.ts'
import { ModelFileError } from './model-file-error.ts'
import type { ModelConfig } from './model-source.ts'
import { readWeightsFile } from './read-weights-file.ts'
import { parseSafetensors, type StoredTensor, toFloat32 } from './safetensors.ts'
import type { ModelFile, StoredWeights } from './stored-weights.ts'

/** The fields of a `config.json` that change what a Llama model computes. Others are ignored. */
const configSchema = z.object({
  architectures: z.tuple([
    z.literal('LlamaForCausalLM', {
      error: ({ input }) => `${String(input)} is not served, only LlamaForCausalLM`,
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
  rope_theta: z.number().optional(),
  rope_scaling: z.null('RoPE scaling is not supported').optional(),
  rope_parameters: z
    .object({
      rope_theta: z.number(),
      rope_type: z.literal('default', 'RoPE scaling is not supported').optional(),
    })
    .nullish(),
  rope_interleaved: z.literal(false).optional(),
  rms_norm_eps: z.number().default(1e-6),
  attention_bias: z.literal(false, 'attention biases are not supported').optional(),
  mlp_bias: z.literal(false, 'MLP biases are not supported').optional(),
  quantization_config: z.null('quantised checkpoints are not supported').optional(),
  tie_word_embeddings: z.boolean().default(false),
  eos_token_id: tokenIdsSchema,
})

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string().regex(/^[^/\\]+$/)) })

/** Reads a Hugging Face folder of a `LlamaForCausalLM`. Throws {@link ModelFileError}. */
export async function readFolderModel(dir: string): Promise<ModelFile> {
  const config = parseFields(configSchema, await readJson(dir, 'config.json'), 'config.json')
  return {
    name: basename(resolve(dir)),
    config: modelConfig(config),
    ...(await readFolderTokenizer(dir, config.eos_token_id)),
    naming: 'huggingFace',
    tensors: await readTensors(dir, config.tie_word_embeddings),
    isHeadTied: config.tie_word_embeddings,
    isRopeInterleaved: false,
  }
}

function modelConfig(config: z.infer<typeof configSchema>): ModelConfig {
  return {
    layerCount: config.num_hidden_layers,
    hiddenSize: config.hidden_size,
    headCount: config.num_attention_heads,
    kvHeadCount: config.num_key_value_heads ?? config.num_attention_heads,
    headSize: config.head_dim ?? config.hidden_size / config.num_attention_heads,
    ffnSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    contextLength: config.max_position_embeddings,
    ropeTheta: config.rope_theta ?? config.rope_parameters?.rope_theta ?? 10_000,
    normEpsilon: config.rms_norm_eps,
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
