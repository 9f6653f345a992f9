import { createHash } from 'node:crypto'
import type { Digest } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'
import { linearSizes, type ModelConfig } from '../model/model-source.ts'
import { type SafetensorsFile, type StoredTensor, toFloat32 } from '../model/safetensors.ts'
import type { ModulePlan } from './adapter-config.ts'
import type { LoraModule, LoraModuleKey, LoraWeights } from './lora-weights.ts'

/** What PEFT puts before a module's name: the wrapper's and the LoRA model's own attribute. */
const TENSOR_PREFIX = 'base_model.model.'

/**
 * The weights that the plan asks for, out of the file's tensors: each planned module has exactly its
 * two matrices, of the right shape, all finite, and nothing else is there. Throws `adapter_rejected`
 * naming the tensor at fault.
 */
export function assembleLoraWeights(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  { tensors }: SafetensorsFile,
  config: ModelConfig,
): LoraWeights {
  const sizes = linearSizes(config)
  const modules = new Map<LoraModuleKey, LoraModule>()
  const unclaimed = new Set(tensors.keys())
  const claim = (name: string, shape: readonly [number, number]) => {
    const tensor = tensors.get(name)
    if (!tensor) throw rejected(name, 'is missing')
    unclaimed.delete(name)
    return readFinite(tensor, shape)
  }
  for (const [key, { name, linear, rank, scale }] of plan) {
    const [inSize, outSize] = sizes[linear]
    const a = claim(`${TENSOR_PREFIX}${name}.lora_A.weight`, [rank, inSize])
    const b = claim(`${TENSOR_PREFIX}${name}.lora_B.weight`, [outSize, rank])
    modules.set(key, { rank, scale, a, b: transpose(b, outSize, rank) })
  }
  const [unknown] = unclaimed
  if (unknown !== undefined) throw rejected(unknown, 'belongs to no module that the config names')
  const sizeBytes = [...modules.values()].reduce(
    (sum, { a, b }) => sum + a.byteLength + b.byteLength,
    0,
  )
  return { digest: digestModules(modules), sizeBytes, modules }
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
 * SHA-256 over what the adapter computes: for each module in canonical order its key, rank, scale
 * and matrices as float32, little-endian. Two files of the same values have the same digest,
 * whatever the order, dtype or metadata they are stored with.
 */
function digestModules(modules: ReadonlyMap<LoraModuleKey, LoraModule>): Digest {
  const hash = createHash('sha256').update('tallygate lora 1\n')
  for (const [key, { rank, scale, a, b }] of modules) {
    hash
      .update(`${key} ${rank} `)
      .update(new Float64Array([scale]))
      .update(a)
      .update(b)
  }
  return `0x${hash.digest('hex')}`
}

function rejected(param: string, why: string): BackendError {
  return new BackendError('adapter_rejected', `The adapter's tensor '${param}' ${why}.`, { param })
}
