import { createHash, type Hash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { BackendError } from '../errors.ts'
import { linearSizes, type ModelConfig } from '../model/model-source.ts'
import { type SafetensorsFile, type StoredTensor, toFloat32 } from '../model/safetensors.ts'
import type { ModulePlan } from './adapter-config.ts'
import type { LoraModule, LoraModuleKey, LoraWeights } from './lora-weights.ts'

/** What PEFT puts before a module's name: the wrapper's and the LoRA model's own attribute. */
const TENSOR_PREFIX = 'base_model.model.'

/**
 * The weights that the plan asks for, out of the file's tensors: each planned module has exactly its
 * two matrices, of the right shape, all finite, and nothing else is there. Module by module, with
 * everybody else's streams in between. Throws `adapter_rejected` naming the tensor at fault.
 */
export async function assembleLoraWeights(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  { tensors }: SafetensorsFile,
  config: ModelConfig,
): Promise<LoraWeights> {
  const sizes = linearSizes(config)
  const modules = new Map<LoraModuleKey, LoraModule>()
  const unclaimed = new Set(tensors.keys())
  const claim = (name: string, shape: readonly [number, number]) => {
    const tensor = tensors.get(name)
    if (!tensor) throw rejected(name, 'is missing')
    unclaimed.delete(name)
    return readFinite(tensor, shape)
  }
  const hash = createHash('sha256').update('tallygate lora 1\n')
  let sizeBytes = 0
  for (const [key, { name, linear, rank, scale }] of plan) {
    await setImmediate()
    const [inSize, outSize] = sizes[linear]
    const a = claim(`${TENSOR_PREFIX}${name}.lora_A.weight`, [rank, inSize])
    const stored = claim(`${TENSOR_PREFIX}${name}.lora_B.weight`, [outSize, rank])
    const b = transpose(stored, outSize, rank)
    modules.set(key, { rank, scale, a, b })
    digestModule(hash, key, { rank, scale, a, b })
    sizeBytes += a.byteLength + b.byteLength
  }
  const [unknown] = unclaimed
  if (unknown !== undefined) throw rejected(unknown, 'belongs to no module that the config names')
  return { digest: `0x${hash.digest('hex')}`, sizeBytes, modules }
}

function readFinite(tensor: StoredTensor, shape: readonly [number, number]): Float32Array {
  if (tensor.shape.length !== 2 || tensor.shape.some((extent, axis) => extent !== shape[axis])) {
    throw rejected(
      tensor.name,
      `has the shape [${tensor.shape.join(', ')}] and must have [${shape.join(', ')}]`,
    )
  }
  const values = toFloat32(tensor)
  if (!values.every(Number.isFinite))
    throw rejected(tensor.name, 'holds values that are not finite')
  return values
}

/** [out, R] → [R, out]. */
function transpose(values: Float32Array, outSize: number, rank: number): Float32Array {
  const transposed = new Float32Array(values.length)
  for (let row = 0; row < outSize; row++) {
    for (let column = 0; column < rank; column++) {
      transposed[column * outSize + row] = values[row * rank + column] ?? 0
    }
  }
  return transposed
}

/**
 * The digest covers what the adapter computes: for each module in canonical order its key, rank,
 * scale and matrices as float32, little-endian. Two files of the same values have the same digest,
 * whatever the order, dtype or metadata they are stored with.
 */
function digestModule(hash: Hash, key: LoraModuleKey, { rank, scale, a, b }: LoraModule): void {
  hash
    .update(`${key} ${rank} `)
    .update(new Float64Array([scale]))
    .update(a)
    .update(b)
}

function rejected(param: string, why: string): BackendError {
  return new BackendError('adapter_rejected', `The adapter's tensor '${param}' ${why}.`, { param })
}
