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

/** A module's two matrices, checked. */
interface StoredModule {
  readonly key: LoraModuleKey
  readonly rank: number
  readonly scale: number
  readonly a: StoredTensor
  readonly b: StoredTensor
}

/** Bytes between two turns of everybody else's streams. */
const TURN_BYTES = 512 * 1024

/**
 * Checks the file against the plan: each planned module has exactly its two matrices, of the right
 * shape, all finite, and nothing else is there; in turns with everybody else's streams. Gives each module
 * to `take`, once checked and hashed, while it is in the processor's cache: nothing reads its bytes
 * afterwards. Throws `adapter_rejected` naming the tensor at fault.
 *
 * The digest covers what the adapter computes: for each module in canonical order its key, rank,
 * scale, and dtype and bytes of its matrices. The file's order and metadata are not in it.
 */
export async function inspectLora(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  { tensors }: SafetensorsFile,
  config: ModelConfig,
  take: (module: StoredModule) => void = () => undefined,
): Promise<LoraSummary> {
  const sizes = linearSizes(config)
  const unclaimed = new Set(tensors.keys())
  const hash = createHash('sha256').update('tallygate lora 2\n')
  let sizeBytes = 0
  let turnBytes = 0
  for (const [key, module] of plan) {
    const { rank, scale } = module
    const [inSize, outSize] = sizes[module.linear]
    const a = claim(tensors, tensorNames(module).a, [rank, inSize])
    const b = claim(tensors, tensorNames(module).b, [outSize, rank])
    if (!Number.isFinite(Math.fround(largestMagnitude(b) * scale))) {
      throw rejected(b.name, `overflows 32-bit floats at the scale ${scale}`)
    }
    hash.update(`${key} ${rank} ${a.dtype} ${b.dtype} `).update(new Float64Array([scale]))
    hash.update(a.data).update(b.data)
    take({ key, rank, scale, a, b })
    unclaimed.delete(a.name)
    unclaimed.delete(b.name)
    sizeBytes += rank * (inSize + outSize) * Float32Array.BYTES_PER_ELEMENT
    turnBytes += a.data.byteLength + b.data.byteLength
    if (turnBytes < TURN_BYTES) continue
    turnBytes = 0
    await setImmediate()
  }
  const [unknown] = unclaimed
  if (unknown !== undefined) throw rejected(unknown, 'belongs to no module that the config names')
  return { digest: `0x${hash.digest('hex')}`, sizeBytes }
}

/** As {@link inspectLora}, with the values: those of a file of 32-bit floats stay where they were read, and the file is used up. */
export async function readLora(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  file: SafetensorsFile,
  config: ModelConfig,
): Promise<LoraWeights> {
  const modules = new Map<LoraModuleKey, LoraModule>()
  const place = createPlace(plan, file, config)
  const sizes = linearSizes(config)
  const largestB = Math.max(...Array.from(plan.values(), (m) => m.rank * sizes[m.linear][1]))
  const memory = new Float32Array(largestB)
  const summary = await inspectLora(plan, file, config, ({ key, rank, scale, ...stored }) => {
    const a = place(stored.a)
    const b = place(stored.b)
    transpose(b, rank, memory)
    modules.set(key, { rank, scale, a, b })
  })
  return { ...summary, modules }
}

/** What of a file's bytes may be no values, for these to stay in its memory. */
const MAX_WASTED_PART = 1 / 16

/** Where a tensor's float32 values are to be: in the file's own memory if that is what they are, aligned and nearly all of it; else in one buffer for all. */
function createPlace(
  plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
  { tensors }: SafetensorsFile,
  config: ModelConfig,
): (tensor: StoredTensor) => Float32Array {
  const sizes = linearSizes(config)
  let length = 0
  for (const { rank, linear } of plan.values())
    length += rank * (sizes[linear][0] + sizes[linear][1])
  const mostBytes = (1 + MAX_WASTED_PART) * length * Float32Array.BYTES_PER_ELEMENT
  const staysInFile = [...tensors.values()].every(
    ({ dtype, data }) =>
      dtype === 'F32' &&
      data.byteOffset % Float32Array.BYTES_PER_ELEMENT === 0 &&
      data.buffer.byteLength <= mostBytes,
  )
  if (staysInFile) return ({ data }) => words(data, Float32Array)
  const memory = new Float32Array(length)
  let end = 0
  return (tensor) => {
    const values = tensor.dtype === 'F32' ? words(tensor.data, Float32Array) : toFloat32(tensor)
    const own = memory.subarray(end, end + values.length)
    end += values.length
    own.set(values)
    return own
  }
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
      return bitsToFloat(largestOf32(words(data, Int32Array)))
    case 'F16':
      return halfToFloat(largestOf16(words(data, Uint16Array)))
    case 'BF16':
      return bitsToFloat(largestOf16(words(data, Uint16Array)) << 16)
    default:
      throw new ModelFileError(`Tensor "${name}" is ${dtype}; weights must be F32, F16 or BF16.`)
  }
}

/** Without signs. Four at a time, which takes half as long. */
function largestOf32(values: Int32Array): number {
  const { length } = values
  let [most, second, third, fourth] = [0, 0, 0, 0]
  let i = 0
  for (; i + 3 < length; i += 4) {
    most = Math.max(most, (values[i] ?? 0) & 0x7fff_ffff)
    second = Math.max(second, (values[i + 1] ?? 0) & 0x7fff_ffff)
    third = Math.max(third, (values[i + 2] ?? 0) & 0x7fff_ffff)
    fourth = Math.max(fourth, (values[i + 3] ?? 0) & 0x7fff_ffff)
  }
  for (; i < length; i++) most = Math.max(most, (values[i] ?? 0) & 0x7fff_ffff)
  return Math.max(most, second, third, fourth)
}

function largestOf16(values: Uint16Array): number {
  let most = 0
  for (let i = 0; i < values.length; i++) most = Math.max(most, (values[i] ?? 0) & 0x7fff)
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

/** [out, R] → [R, out], in place, by way of memory for as many values. */
function transpose(values: Float32Array, rank: number, stored: Float32Array): void {
  stored.set(values)
  const outSize = values.length / rank
  let from = 0
  for (let row = 0; row < outSize; row++) {
    for (let to = row; to < values.length; to += outSize) {
      values[to] = stored[from] ?? 0
      from += 1
    }
  }
}

function rejected(param: string, why: string): BackendError {
  return new BackendError('adapter_rejected', `The adapter's tensor '${param}' ${why}.`, { param })
}
