export type GgufField =
  | { readonly u32: number }
  | { readonly f32: number }
  | { readonly bool: boolean }
  | { readonly text: string }
  | { readonly texts: readonly string[] }
  | { readonly i32s: readonly number[] }
  | { readonly f32s: readonly number[] }

export interface GgufTensorToWrite {
  readonly name: string
  /** Slowest dimension first. */
  readonly shape: readonly number[]
  /** The number in `enum ggml_type`. */
  readonly type: number
  readonly data: Uint8Array
}

const ALIGNMENT = 32

/** Encodes a GGUF file of version 3, tensors in the order given. */
export function encodeGguf(
  metadata: Readonly<Record<string, GgufField>>,
  tensors: readonly GgufTensorToWrite[],
  version = 3,
): Uint8Array {
  const parts: Uint8Array[] = [Buffer.from('GGUF'), u32(version), u64(tensors.length)]
  parts.push(u64(Object.keys(metadata).length))
  for (const [key, field] of Object.entries(metadata)) parts.push(text(key), ...encodeField(field))
  let offset = 0
  for (const { name, shape, type, data } of tensors) {
    parts.push(text(name), u32(shape.length), ...shape.toReversed().map(u64), u32(type))
    parts.push(u64(offset))
    offset += Math.ceil(data.byteLength / ALIGNMENT) * ALIGNMENT
  }
  const header = pad(Buffer.concat(parts))
  return new Uint8Array(Buffer.concat([header, ...tensors.map(({ data }) => pad(data))]))
}

function encodeField(field: GgufField): Uint8Array[] {
  if ('u32' in field) return [u32(4), u32(field.u32)]
  if ('f32' in field) return [u32(6), new Uint8Array(Float32Array.of(field.f32).buffer)]
  if ('bool' in field) return [u32(7), Uint8Array.of(field.bool ? 1 : 0)]
  if ('text' in field) return [u32(8), text(field.text)]
  if ('texts' in field) return [u32(9), u32(8), u64(field.texts.length), ...field.texts.map(text)]
  if ('f32s' in field) {
    const values = new Uint8Array(Float32Array.from(field.f32s).buffer)
    return [u32(9), u32(6), u64(field.f32s.length), values]
  }
  const values = new Uint8Array(Int32Array.from(field.i32s).buffer)
  return [u32(9), u32(5), u64(field.i32s.length), values]
}

function text(value: string): Uint8Array {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.byteLength), bytes])
}

function u32(value: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(value).buffer)
}

function u64(value: number): Uint8Array {
  return new Uint8Array(BigUint64Array.of(BigInt(value)).buffer)
}

function pad(bytes: Uint8Array): Uint8Array {
  const padded = new Uint8Array(Math.ceil(bytes.byteLength / ALIGNMENT) * ALIGNMENT)
  padded.set(bytes)
  return padded
}
