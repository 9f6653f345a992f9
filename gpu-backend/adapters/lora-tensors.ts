import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import type { Digest } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'
import { halfToFloat } from '../model/half-float.ts'
import { ModelFileError } from '../model/model-file-error.ts'
import { linearSizes, type ModelConfig } from '../model/model-source.ts'
import { type SafetensorsFile, type StoredTensor, toFloat32 } from '../model/safetensors.ts'
import type { ModulePlan } from './adapter-config.ts'
import type { LoraModule, LoraModuleKey, LoraWeights } from './lora-weights.ts'

/** What PEFT puts before a module's name: the wrapper's and the LoRA model's own attribute. */
const TENSOR_PREFIX = 'base_model.model.'

/** What is known of an adapter without its values in memory. */
export interface LoraSummary {
  readonly digest: Digest
  /** Of its values in float32, as the engine holds them. */
  readonly sizeBytes: number
}

/**
 * Checks the file against the plan: each planned module has exactly its two matrices, of the right
 * shape, all finite, and nothing else is there. Module by module, with everybody else's streams in
 * between. Throws `adapter_rejected` naming the tensor at fault.
 *
 * The digest covers what the adapter computes: for each module in canonical order its key, rank,
 * scale, and dtype and bytes of its matrices. The file's order and metadata are not in it.
 */
export async function inspectLora(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  { tensors }: SafetensorsFile,
  config: ModelConfig,
): Promise<LoraSummary> {
  const sizes = linearSizes(config)
  const unclaimed = new Set(tensors.keys())
  const hash = createHash('sha256').update('tallygate lora 2\n')
  let sizeBytes = 0
  for (const [key, module] of plan) {
    await setImmediate()
    const { rank, scale } = module
    const [inSize, outSize] = sizes[module.linear]
    const a = claim(tensors, tensorNames(module).a, [rank, inSize])
    const b = claim(tensors, tensorNames(module).b, [outSize, rank])
    if (!Number.isFinite(Math.fround(largestMagnitude(b) * scale))) {
      throw rejected(b.name, `overflows 32-bit floats at the scale ${scale}`)
    }
    hash.update(`${key} ${rank} ${a.dtype} ${b.dtype} `).update(new Float64Array([scale]))
    hash.update(a.data).update(b.data)
    unclaimed.delete(a.name)
    unclaimed.delete(b.name)
    sizeBytes += rank * (inSize + outSize) * Float32Array.BYTES_PER_ELEMENT
  }
  const [unknown] = unclaimed
  if (unknown !== undefined) throw rejected(unknown, 'belongs to no module that the config names')
  return { digest: `0x${hash.digest('hex')}`, sizeBytes }
}

/** The values of a file that {@link inspectLora} has passed, all in one buffer of `sizeBytes`. */
export async function convertLora(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  { tensors }: SafetensorsFile,
  { sizeBytes }: LoraSummary,
): Promise<LoraWeights['modules']> {
  const modules = new Map<LoraModuleKey, LoraModule>()
  const memory = new Float32Array(sizeBytes / Float32Array.BYTES_PER_ELEMENT)
  let end = 0
  const take = (length: number) => {
    end += length
    return memory.subarray(end - length, end)
  }
  for (const [key, module] of plan) {
    await setImmediate()
    const { rank, scale } = module
    const names = tensorNames(module)
    const a = floats(find(tensors, names.a))
    const b = floats(find(tensors, names.b))
    const own = { a: take(a.length), b: take(b.length) }
    own.a.set(a)
    transpose(b, rank, own.b)
    modules.set(key, { rank, scale, ...own })
  }
  return modules
}

/** In place where they are float32 already. */
function floats(tensor: StoredTensor): Float32Array {
  return tensor.dtype === 'F32' ? words(tensor.data, Float32Array) : toFloat32(tensor)
}

function tensorNames({ name }: ModulePlan) {
  return {
    a: `${TENSOR_PREFIX}${name}.lora_A.weight`,
    b: `${TENSOR_PREFIX}${name}.lora_B.weight`,
  }
}

function find(tensors: SafetensorsFile['tensors'], name: string): StoredTensor {
  const tensor = tensors.get(name)
  if (tensor) return tensor
  throw rejected(name, 'is missing')
}

function claim(
  tensors: SafetensorsFile['tensors'],
  name: string,
  shape: readonly [number, number],
): StoredTensor {
  const tensor = find(tensors, name)
  if (tensor.shape.length !== 2 || tensor.shape.some((extent, axis) => extent !== shape[axis])) {
    throw rejected(
      name,
      `has the shape [${tensor.shape.join(', ')}] and must have [${shape.join(', ')}]`,
    )
  }
  if (!Number.isFinite(largestMagnitude(tensor)))
    throw rejected(name, 'holds values that are not finite')
  return tensor
}

/** By the bits, which order as magnitudes do, infinity and NaN last: one value is converted. */
function largestMagnitude({ name, dtype, data }: StoredTensor): number {
  switch (dtype) {
    case 'F32':
      return bitsToFloat(largest(words(data, Uint32Array), 0x7fff_ffff))
    case 'F16':
      return halfToFloat(largest(words(data, Uint16Array), 0x7fff))
    case 'BF16':
      return bitsToFloat(largest(words(data, Uint16Array), 0x7fff) << 16)
    default:
      throw new ModelFileError(`Tensor "${name}" is ${dtype}; weights must be F32, F16 or BF16.`)
  }
}

function largest(values: Uint32Array | Uint16Array, mask: number): number {
  let most = 0
  for (let i = 0; i < values.length; i++) most = Math.max(most, (values[i] ?? 0) & mask)
  return most
}

function bitsToFloat(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0] ?? 0
}

/** The bytes as little-endian words; copied where they are not aligned. */
function words<Words>(
  bytes: Uint8Array,
  type: {
    readonly BYTES_PER_ELEMENT: number
    new (buffer: ArrayBufferLike, byteOffset: number, length: number): Words
  },
): Words {
  const isAligned = bytes.byteOffset % type.BYTES_PER_ELEMENT === 0
  const { buffer, byteOffset, byteLength } = isAligned ? bytes : new Uint8Array(bytes)
  return new type(buffer, byteOffset, byteLength / type.BYTES_PER_ELEMENT)
}

/** [out, R] → [R, out]. */
function transpose(values: Float32Array, rank: number, transposed: Float32Array): void {
  const outSize = values.length / rank
  for (let column = 0; column < rank; column++) {
    const start = column * outSize
    for (let row = 0; row < outSize; row++) {
      transposed[start + row] = values[row * rank + column] ?? 0
    }
  }
}

function rejected(param: string, why: string): BackendError {
  return new BackendError('adapter_rejected', `The adapter's tensor '${param}' ${why}.`, { param })
}
