import { z } from 'zod'
import { bfloatsToFloat32, floatsToFloat32, halvesToFloat32 } from './half-float.ts'
import { readHeaderKeys } from './header-keys.ts'
import { ModelFileError } from './model-file-error.ts'

/** Bytes an element takes, for every type the format knows. */
const DTYPE_SIZES_BYTES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
} as const

type SafetensorsDtype = keyof typeof DTYPE_SIZES_BYTES

export interface StoredTensor {
  readonly name: string
  readonly dtype: SafetensorsDtype
  readonly shape: readonly number[]
  /** A view into the file, little-endian, row-major; not necessarily aligned. */
  readonly data: Uint8Array
}

export interface SafetensorsFile {
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly metadata: ReadonlyMap<string, string>
}

/** The limit of the format's reference reader, rounded down: a header is names and numbers only. */
const MAX_HEADER_BYTES = 25_000_000

const LENGTH_BYTES = 8

const tensorEntry = z.strictObject({
  dtype: z.string().max(20),
  shape: z.array(z.int().nonnegative()),
  data_offsets: z.tuple([z.int().nonnegative(), z.int().nonnegative()]),
})

/**
 * Reads a safetensors file (huggingface/safetensors, "Format"): an 8-byte header length, a JSON
 * header, the data. As the reference reader does, it demands that the tensors cover the data without
 * gap or overlap. Throws {@link ModelFileError}.
 */
export function parseSafetensors(file: Uint8Array): SafetensorsFile {
  const header = readHeader(file)
  const data = file.subarray(LENGTH_BYTES + header.sizeBytes)
  const tensors = new Map<string, StoredTensor>()
  const ranges: { name: string; begin: number; end: number }[] = []
  let metadata: ReadonlyMap<string, string> = new Map()
  for (const [name, value] of Object.entries(header.fields)) {
    if (name === '__metadata__') {
      metadata = readMetadata(value)
      continue
    }
    const { dtype, shape, begin, end } = readEntry(name, value, data.byteLength)
    ranges.push({ name, begin, end })
    tensors.set(name, { name, dtype, shape, data: data.subarray(begin, end) })
  }
  refuseGaps(ranges, data.byteLength)
  return { tensors, metadata }
}

/** Exact values of an F32, F16 or BF16 tensor, row-major, in memory of their own; other types throw {@link ModelFileError}. */
export function toFloat32(tensor: StoredTensor): Float32Array {
  switch (tensor.dtype) {
    case 'F32':
      return floatsToFloat32(tensor.data)
    case 'F16':
      return halvesToFloat32(tensor.data)
    case 'BF16':
      return bfloatsToFloat32(tensor.data)
    default:
      throw new ModelFileError(
        `Tensor "${tensor.name}" is ${tensor.dtype}; weights must be F32, F16 or BF16.`,
      )
  }
}

function readHeader(file: Uint8Array): { fields: Record<string, unknown>; sizeBytes: number } {
  if (file.byteLength < LENGTH_BYTES) {
    throw new ModelFileError(`The file has ${file.byteLength} bytes; the header length needs 8.`)
  }
  const length = new DataView(file.buffer, file.byteOffset).getBigUint64(0, true)
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw new ModelFileError(
      `The header length is ${length} bytes; at most ${MAX_HEADER_BYTES} are read.`,
    )
  }
  const sizeBytes = Number(length)
  if (LENGTH_BYTES + sizeBytes > file.byteLength) {
    throw new ModelFileError(
      `The header length is ${sizeBytes} bytes, but the file ends after ${file.byteLength}.`,
    )
  }
  return { fields: parseHeader(file.subarray(LENGTH_BYTES, LENGTH_BYTES + sizeBytes)), sizeBytes }
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  let value: unknown
  let names: ReadonlySet<string>
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    names = readHeaderKeys(text)
    value = JSON.parse(text)
  } catch (error) {
    if (error instanceof ModelFileError) throw error
    throw new ModelFileError('The header is not valid JSON in UTF-8.', { cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ModelFileError('The header is not a JSON object.')
  }
  // V8 may read an escaped name of one character as a backslash (nodejs/node#63785).
  const misread = Object.keys(value).find((name) => !names.has(name))
  if (misread !== undefined) throw new ModelFileError(`The name "${misread}" cannot be read.`)
  return value as Record<string, unknown> // an object that JSON.parse made
}

function readMetadata(value: unknown): ReadonlyMap<string, string> {
  const parsed = z.record(z.string(), z.string()).safeParse(value)
  if (!parsed.success) {
    throw new ModelFileError('The field "__metadata__" must map strings to strings.')
  }
  return new Map(Object.entries(parsed.data))
}

function readEntry(name: string, value: unknown, dataSizeBytes: number) {
  const parsed = tensorEntry.safeParse(value)
  if (!parsed.success) {
    const field = parsed.error.issues[0]?.path.join('.') || 'entry'
    throw new ModelFileError(`Tensor "${name}": the field "${field}" is missing or not valid.`)
  }
  const { dtype, shape } = parsed.data
  const [begin, end] = parsed.data.data_offsets
  if (!isDtype(dtype))
    throw new ModelFileError(`Tensor "${name}" has the unknown dtype "${dtype}".`)
  if (begin > end || end > dataSizeBytes) {
    throw new ModelFileError(
      `Tensor "${name}" lies at bytes ${begin} to ${end} of ${dataSizeBytes} bytes of data.`,
    )
  }
  const sizeBytes = shape.reduce((size, extent) => size * extent, DTYPE_SIZES_BYTES[dtype])
  if (sizeBytes !== end - begin) {
    throw new ModelFileError(
      `Tensor "${name}" of ${dtype} [${shape.join(', ')}] takes ${sizeBytes} bytes, but has ${end - begin}.`,
    )
  }
  return { dtype, shape, begin, end }
}

function isDtype(dtype: string): dtype is SafetensorsDtype {
  return Object.hasOwn(DTYPE_SIZES_BYTES, dtype)
}

function refuseGaps(
  ranges: { name: string; begin: number; end: number }[],
  dataSizeBytes: number,
): void {
  ranges.sort((left, right) => left.begin - right.begin || left.end - right.end)
  let covered = 0
  for (const { name, begin, end } of ranges) {
    if (begin !== covered) {
      throw new ModelFileError(
        `Tensor "${name}" begins at byte ${begin} of the data, where ${covered} is due: ${begin < covered ? 'tensors overlap' : 'there is a gap'}.`,
      )
    }
    covered = end
  }
  if (covered !== dataSizeBytes) {
    throw new ModelFileError(
      `The tensors end at byte ${covered} of the data, which has ${dataSizeBytes}.`,
    )
  }
}
