import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import type { Digest } from '../../protocol/digest.ts'
import { readFolderModel } from './folder-model.ts'
import { readGgufModel } from './gguf-model.ts'
import { listLlamaTensors, type TensorRole } from './llama-tensors.ts'
import { ModelFileError } from './model-file-error.ts'
import type {
  LinearName,
  LinearWeights,
  ModelConfig,
  ModelSource,
  Precision,
} from './model-source.ts'
import { QUANTISERS, quantiseInt8, quantiseLinear, quantiseRotated } from './quantise.ts'
import { ropeFrequencies } from './rope.ts'
import type { ModelFile, StoredWeights } from './stored-weights.ts'
import { BLOCK_LENGTH, reorderRows } from './weight-blocks.ts'

/**
 * Opens a GGUF file or a Hugging Face folder of a Llama-family model. Everything that can be wrong
 * with it is found here: rejects with {@link ModelFileError}, which names the path and the field or
 * tensor. The file's bytes stay in memory as long as the result.
 */
export async function openModel(
  path: string,
  { precision }: { readonly precision: Precision },
): Promise<ModelSource> {
  const found = await stat(path).catch(() => null)
  if (!found) throw new ModelFileError(`There is no model at ${path}.`)
  try {
    const file = found.isDirectory() ? await readFolderModel(path) : await readGgufModel(path)
    return createSource(file, precision)
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    throw new ModelFileError(`${path}: ${error.message}`, { cause: error })
  }
}

function createSource(file: ModelFile, precision: Precision): ModelSource {
  const { config, name, tokenizer } = file
  checkConfig(config, precision)
  checkTokenizer(file)
  const tensors = assignTensors(file)
  const get = (role: TensorRole): StoredWeights => {
    const weights = tensors.get(role)
    if (!weights) throw new RangeError(`The model has no ${role}.`)
    return weights
  }
  const createTable = (role: 'embedding' | 'head') => serve(get(role), precision, quantiseInt8)
  let embedding: LinearWeights | undefined
  const getEmbedding = () => {
    embedding ??= createTable('embedding')
    return embedding
  }
  const createHead = () => {
    if (precision === 'int8') {
      return serveRotated(get(file.isHeadTied ? 'embedding' : 'head'))
    }
    return file.isHeadTied ? getEmbedding() : createTable('head')
  }
  return {
    name,
    config,
    tokenizer,
    digest: digestOf(tensors, precision),
    linear: (layer, linear) => {
      const stored = get(`${layer}.${linear}`)
      const weights =
        precision === 'int8' ? serveRotated(stored) : serve(stored, precision, quantiseLinear)
      const order = file.isRopeInterleaved ? rotateHalfOrder(config, linear) : null
      return order ? reorderRows(weights, order) : weights
    },
    norm: (layer, which) => get(`${layer}.${which}Norm`).values(),
    finalNorm: () => get('finalNorm').values(),
    bias: (layer, linear) => (config.hasQkvBias ? get(`${layer}.${linear}Bias`).values() : null),
    headNorm: (layer, which) => (config.hasQkNorm ? get(`${layer}.${which}Norm`).values() : null),
    embedding: getEmbedding,
    head: createHead,
  }
}

/** Weights as they are served: exact floats, or the file's own blocks, or blocks made of its values. */
function serve(
  stored: StoredWeights,
  precision: Precision,
  quantise: (values: Float32Array) => LinearWeights,
): LinearWeights {
  if (precision === 'fp32') return { form: 'f32', values: stored.values() }
  return stored.blocks?.() ?? quantise(stored.values())
}

/** [out, in] as rotated rows of int8. */
function serveRotated(stored: StoredWeights): LinearWeights {
  const [, inputSize = 0] = stored.shape
  return quantiseRotated(stored.values(), inputSize)
}

/** Row of an interleaved q or k for each row of the rotate-half layout; null for the other layers. */
function rotateHalfOrder(config: ModelConfig, linear: LinearName): readonly number[] | null {
  if (linear !== 'q' && linear !== 'k') return null
  const { headSize, headCount, kvHeadCount } = config
  const half = headSize / 2
  const rowCount = (linear === 'q' ? headCount : kvHeadCount) * headSize
  return Array.from({ length: rowCount }, (_, row) => {
    const inHead = row % headSize
    return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half)
  })
}

function checkConfig(config: ModelConfig, precision: Precision): void {
  const { ropeTheta, ropeScaling, normEpsilon, hasQkvBias, hasQkNorm, ...sizes } = config
  for (const [field, size] of Object.entries(sizes)) {
    if (!Number.isSafeInteger(size) || size <= 0) {
      throw new ModelFileError(`The ${field} is ${size}; it must be a positive integer.`)
    }
  }
  if (!(ropeTheta > 0) || !Number.isFinite(ropeTheta) || !(normEpsilon > 0 && normEpsilon < 1)) {
    throw new ModelFileError(
      `The ropeTheta ${ropeTheta} or the normEpsilon ${normEpsilon} is out of range.`,
    )
  }
  const { headCount, kvHeadCount, headSize, hiddenSize, ffnSize } = config
  if (headCount % kvHeadCount !== 0) {
    throw new ModelFileError(
      `${headCount} query heads cannot share ${kvHeadCount} key/value heads evenly.`,
    )
  }
  if (headSize % 2 !== 0) {
    throw new ModelFileError(`The headSize is ${headSize}; rotary embeddings need an even one.`)
  }
  const { frequencies, magnitude } = ropeFrequencies(config)
  if (![...frequencies, magnitude].every((value) => value > 0 && Number.isFinite(value))) {
    throw new ModelFileError(
      `The RoPE scaling ${JSON.stringify(ropeScaling)} gives no positive frequencies.`,
    )
  }
  for (const inputs of [hiddenSize, ffnSize, headCount * headSize]) {
    if (precision !== 'fp32' && inputs % BLOCK_LENGTH !== 0) {
      throw new ModelFileError(
        `A linear layer has ${inputs} inputs; ${precision} needs a multiple of ${BLOCK_LENGTH}. Precision fp32 works.`,
      )
    }
  }
}

function checkTokenizer({ config, tokenizer, tokenCount }: ModelFile): void {
  if (tokenCount > config.vocabSize) {
    throw new ModelFileError(
      `The tokenizer has ${tokenCount} tokens; the vocabulary of the weights has ${config.vocabSize}.`,
    )
  }
  if (tokenizer.eosTokenIds.length === 0) {
    throw new ModelFileError('No token ends an answer: the end-of-sequence id is missing.')
  }
  for (const id of tokenizer.eosTokenIds) {
    if (id < 0 || id >= config.vocabSize) {
      throw new ModelFileError(
        `The end-of-sequence id ${id} is outside the vocabulary of ${config.vocabSize}.`,
      )
    }
  }
}

/** Finds every tensor that the config implies, of the right shape, and no other. */
function assignTensors(file: ModelFile): ReadonlyMap<TensorRole, StoredWeights> {
  const assigned = new Map<TensorRole, StoredWeights>()
  const left = new Map(file.tensors)
  for (const expected of listLlamaTensors(file.config, file.isHeadTied)) {
    const name = expected[file.naming]
    const stored = file.tensors.get(name)
    if (!stored) throw new ModelFileError(`Tensor "${name}" is missing.`)
    if (stored.shape.join() !== expected.shape.join()) {
      throw new ModelFileError(
        `Tensor "${name}" is [${stored.shape.join(', ')}]; the config needs [${expected.shape.join(', ')}].`,
      )
    }
    assigned.set(expected.role, stored)
    left.delete(name)
  }
  const [unknown] = left.keys()
  if (unknown !== undefined) {
    throw new ModelFileError(`Tensor "${unknown}" belongs to no layer that is supported.`)
  }
  return assigned
}

/** See `ModelSource.digest`. The order and the names are the file's roles, so a file has one digest. */
function digestOf(tensors: ReadonlyMap<TensorRole, StoredWeights>, precision: Precision): Digest {
  const hash = createHash('sha256')
  let isChanged = false
  for (const { name, type, shape, data, blocks } of tensors.values()) {
    hash.update(`${name}\0${type}\0${shape.join()}\0`)
    hash.update(data)
    isChanged ||= precision === 'int8' || (!blocks && shape.length > 1)
  }
  if (precision !== 'fp32' && isChanged) hash.update(QUANTISERS[precision])
  return `0x${hash.digest('hex')}`
}
