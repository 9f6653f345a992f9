import { GGML_TYPES, type GgmlType } from './ggml-blocks.ts'
import { ModelFileError } from './model-file-error.ts'

/** A metadata value; 64-bit integers beyond 2⁵³ are bigint. */
export type GgufValue = number | bigint | boolean | string | readonly GgufValue[]

export interface GgufTensor {
  readonly name: string
  readonly type: GgmlType
  /** Row-major, slowest dimension first (the file has it the other way round). */
  readonly shape: readonly number[]
  /** A view into the file. */
  readonly data: Uint8Array
}

export interface GgufFile {
  readonly metadata: ReadonlyMap<string, GgufValue>
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

const MAGIC = 0x46554747
const DEFAULT_ALIGNMENT = 32
const MAX_DIMENSIONS = 4
const MAX_ARRAY_DEPTH = 4
/** Vocabularies have fewer than a million tokens. */
const MAX_ARRAY_LENGTH = 2 ** 24
/** A chat template; JavaScript's own texts end at 512 MiB. */
const MAX_TEXT_BYTES = 2 ** 24
/** ggml's limit is 64 bytes for a tensor; keys are as short. Names stand in messages. */
const MAX_NAME_BYTES = 1_000

/**
 * Reads a GGUF file of version 2 or 3, little-endian (ggml-org/ggml, docs/gguf.md): header,
 * metadata, tensor table, data. Throws {@link ModelFileError}.
 */
export function parseGguf(file: Uint8Array): GgufFile {
  const reader = createReader(file)
  const { tensorCount, metadataCount } = readHeader(reader)
  const metadata = new Map<string, GgufValue>()
  for (let i = 0; i < metadataCount; i++) {
    const key = reader.name(`the key of metadata entry ${i}`)
    if (metadata.has(key)) throw new ModelFileError(`The metadata key "${key}" stands there twice.`)
    metadata.set(key, readValue(reader, reader.uint32(key), key))
  }
  const entries: TensorEntry[] = []
  for (let i = 0; i < tensorCount; i++) entries.push(readTensorEntry(reader, i))
  const alignment = readAlignment(metadata)
  const dataStart = Math.ceil(reader.offset() / alignment) * alignment
  return { metadata, tensors: placeTensors(entries, file.subarray(dataStart), alignment) }
}

interface TensorEntry {
  readonly name: string
  readonly type: GgmlType
  readonly shape: readonly number[]
  readonly offset: number
  readonly sizeBytes: number
}

type Reader = ReturnType<typeof createReader>

/** Reads little-endian values one after the other; each call names what it is about to read. */
function createReader(file: Uint8Array) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let at = 0
  const take = (sizeBytes: number, what: string): number => {
    if (sizeBytes > file.byteLength - at) {
      throw new ModelFileError(
        `The file ends at byte ${file.byteLength}, in the middle of ${what}.`,
      )
    }
    const start = at
    at += sizeBytes
    return start
  }
  const count = (what: string): number => {
    const value = view.getBigUint64(take(8, what), true)
    if (value > BigInt(file.byteLength)) {
      throw new ModelFileError(`The count ${value} in ${what} is beyond the file's size.`)
    }
    return Number(value)
  }
  const string = (what: string, most = MAX_TEXT_BYTES): string => {
    const length = count(what)
    if (length > most) {
      throw new ModelFileError(`The text of ${what} has ${length} bytes; at most ${most} are read.`)
    }
    const start = take(length, what)
    try {
      return decoder.decode(file.subarray(start, start + length))
    } catch (error) {
      throw new ModelFileError(`The text of ${what} is not UTF-8.`, { cause: error })
    }
  }
  return {
    view,
    take,
    /** A 64-bit count of things that take at least a byte each. */
    count,
    uint32: (what: string) => view.getUint32(take(4, what), true),
    string,
    name: (what: string) => string(what, MAX_NAME_BYTES),
    offset: () => at,
  }
}

function readHeader(reader: Reader): { tensorCount: number; metadataCount: number } {
  if (reader.uint32('the magic number') !== MAGIC) {
    throw new ModelFileError('The file does not begin with "GGUF".')
  }
  const version = reader.uint32('the version')
  if (version !== 2 && version !== 3) {
    throw new ModelFileError(
      `The GGUF version is ${version}; versions 2 and 3, little-endian, are read.`,
    )
  }
  return {
    tensorCount: reader.count('the tensor count'),
    metadataCount: reader.count('the metadata count'),
  }
}

/** The value of a metadata entry, by the type numbers of the format. */
function readValue(reader: Reader, type: number, key: string, depth = 0): GgufValue {
  const { view, take } = reader
  switch (type) {
    case 0:
      return view.getUint8(take(1, key))
    case 1:
      return view.getInt8(take(1, key))
    case 2:
      return view.getUint16(take(2, key), true)
    case 3:
      return view.getInt16(take(2, key), true)
    case 4:
      return view.getUint32(take(4, key), true)
    case 5:
      return view.getInt32(take(4, key), true)
    case 6:
      return view.getFloat32(take(4, key), true)
    case 7:
      return view.getUint8(take(1, key)) !== 0
    case 8:
      return reader.string(key)
    case 9:
      return readArray(reader, key, depth)
    case 10:
      return narrow(view.getBigUint64(take(8, key), true))
    case 11:
      return narrow(view.getBigInt64(take(8, key), true))
    case 12:
      return view.getFloat64(take(8, key), true)
    default:
      throw new ModelFileError(`The metadata key "${key}" has the unknown value type ${type}.`)
  }
}

function readArray(reader: Reader, key: string, depth: number): readonly GgufValue[] {
  if (depth === MAX_ARRAY_DEPTH) {
    throw new ModelFileError(`The metadata key "${key}" nests more than ${depth} arrays.`)
  }
  const type = reader.uint32(key)
  const count = reader.count(key)
  if (count > MAX_ARRAY_LENGTH) {
    throw new ModelFileError(
      `The metadata key "${key}" has ${count} values; at most ${MAX_ARRAY_LENGTH} are read.`,
    )
  }
  const values: GgufValue[] = []
  for (let i = 0; i < count; i++) values.push(readValue(reader, type, key, depth + 1))
  return values
}

function narrow(value: bigint): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}

function readTensorEntry(reader: Reader, index: number): TensorEntry {
  const name = reader.name(`the name of tensor ${index}`)
  const what = `the table entry of tensor "${name}"`
  const dimensionCount = reader.uint32(what)
  if (dimensionCount > MAX_DIMENSIONS) {
    throw new ModelFileError(
      `Tensor "${name}" has ${dimensionCount} dimensions; at most ${MAX_DIMENSIONS} are allowed.`,
    )
  }
  const shape: number[] = []
  for (let i = 0; i < dimensionCount; i++) shape.unshift(reader.count(what))
  const typeNumber = reader.uint32(what)
  const layout = GGML_TYPES.get(typeNumber)
  if (!layout) {
    throw new ModelFileError(
      `Tensor "${name}" has the type ${typeNumber}; supported are ${supportedTypes()}.`,
    )
  }
  const offset = reader.count(what)
  const rowLength = shape.at(-1) ?? 1
  if (rowLength % layout.blockLength !== 0) {
    throw new ModelFileError(
      `Tensor "${name}" has rows of ${rowLength}, no multiple of the ${layout.blockLength} values of a ${layout.name} block.`,
    )
  }
  const length = shape.reduce((product, extent) => product * extent, 1)
  const sizeBytes = (length / layout.blockLength) * layout.blockBytes
  return { name, type: layout.name, shape, offset, sizeBytes }
}

function supportedTypes(): string {
  return [...GGML_TYPES.values()].map(({ name }) => name).join(', ')
}

function readAlignment(metadata: ReadonlyMap<string, GgufValue>): number {
  const alignment = metadata.get('general.alignment') ?? DEFAULT_ALIGNMENT
  if (typeof alignment === 'number' && Number.isInteger(alignment) && alignment > 0) {
    return alignment
  }
  throw new ModelFileError('The metadata key "general.alignment" must be a positive integer.')
}

function placeTensors(
  entries: readonly TensorEntry[],
  data: Uint8Array,
  alignment: number,
): ReadonlyMap<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>()
  let covered = 0
  for (const entry of entries.toSorted((left, right) => left.offset - right.offset)) {
    const { name, type, shape, offset, sizeBytes } = entry
    if (tensors.has(name)) throw new ModelFileError(`Tensor "${name}" stands in the table twice.`)
    if (offset % alignment !== 0) {
      throw new ModelFileError(`Tensor "${name}" is not aligned to ${alignment} bytes.`)
    }
    if (offset < covered) throw new ModelFileError(`Tensor "${name}" overlaps another one.`)
    if (offset + sizeBytes > data.byteLength) {
      throw new ModelFileError(
        `Tensor "${name}" lies at bytes ${offset} to ${offset + sizeBytes} of ${data.byteLength} bytes of data.`,
      )
    }
    covered = offset + sizeBytes
    tensors.set(name, { name, type, shape, data: data.subarray(offset, covered) })
  }
  return tensors
}
