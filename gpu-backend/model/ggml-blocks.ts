import { bfloatsToFloat32, floatsToFloat32, halfToFloat, halvesToFloat32 } from './half-float.ts'
import type { LinearWeights } from './model-source.ts'
import { BLOCK_LENGTH, expandWeights, packNibbles } from './weight-blocks.ts'

export type GgmlType =
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'Q4_0'
  | 'Q4_1'
  | 'Q5_0'
  | 'Q5_1'
  | 'Q8_0'
  | 'Q4_K'
  | 'Q6_K'

interface GgmlLayout {
  readonly name: GgmlType
  /** Values a block holds, and bytes it takes. */
  readonly blockLength: number
  readonly blockBytes: number
}

/** The tensor types that are read, by their number in a GGUF file (ggml.h, `enum ggml_type`). */
export const GGML_TYPES: ReadonlyMap<number, GgmlLayout> = new Map([
  [0, { name: 'F32', blockLength: 1, blockBytes: 4 }],
  [1, { name: 'F16', blockLength: 1, blockBytes: 2 }],
  [2, { name: 'Q4_0', blockLength: 32, blockBytes: 18 }],
  [3, { name: 'Q4_1', blockLength: 32, blockBytes: 20 }],
  [6, { name: 'Q5_0', blockLength: 32, blockBytes: 22 }],
  [7, { name: 'Q5_1', blockLength: 32, blockBytes: 24 }],
  [8, { name: 'Q8_0', blockLength: 32, blockBytes: 34 }],
  [12, { name: 'Q4_K', blockLength: 256, blockBytes: 144 }],
  [14, { name: 'Q6_K', blockLength: 256, blockBytes: 210 }],
  [30, { name: 'BF16', blockLength: 1, blockBytes: 2 }],
])

/** The types whose blocks are those of {@link LinearWeights}, so that nothing is lost in `int4`. */
export function hasExactBlocks(type: GgmlType): boolean {
  return type === 'Q4_0' || type === 'Q4_1' || type === 'Q4_K' || type === 'Q8_0'
}

/** A tensor's own quantised blocks, or its values in float32 where it has no such blocks. Exact either way. */
export function decodeBlocks(type: GgmlType, data: Uint8Array): LinearWeights {
  const bytes = new DataView(data.buffer, data.byteOffset, data.byteLength)
  switch (type) {
    case 'F32':
      return { form: 'f32', values: floatsToFloat32(data) }
    case 'F16':
      return { form: 'f32', values: halvesToFloat32(data) }
    case 'BF16':
      return { form: 'f32', values: bfloatsToFloat32(data) }
    case 'Q4_0':
    case 'Q4_1':
      return decodeQ4(bytes, type)
    case 'Q5_0':
    case 'Q5_1':
      return { form: 'f32', values: decodeQ5(bytes, type) }
    case 'Q8_0':
      return decodeQ8(bytes)
    case 'Q4_K':
      return decodeQ4K(bytes)
    case 'Q6_K':
      return { form: 'f32', values: decodeQ6K(bytes) }
  }
}

/** Exact values of a tensor of any type, row-major. */
export function dequantise(type: GgmlType, data: Uint8Array): Float32Array {
  return expandWeights(decodeBlocks(type, data))
}

/** `[d half][m half, Q4_1 only][16 bytes: elements j low, j + 16 high]`; Q4_0 is centred on 8. */
function decodeQ4(bytes: DataView, type: 'Q4_0' | 'Q4_1'): LinearWeights {
  const blockBytes = type === 'Q4_0' ? 18 : 20
  const blockCount = bytes.byteLength / blockBytes
  const quants = new Uint8Array(blockCount * 16)
  const scales = new Float32Array(blockCount)
  const mins = new Float32Array(blockCount)
  const block = new Uint8Array(BLOCK_LENGTH)
  for (let b = 0; b < blockCount; b++) {
    const at = b * blockBytes
    const scale = readHalf(bytes, at)
    scales[b] = scale
    mins[b] = type === 'Q4_0' ? -8 * scale : readHalf(bytes, at + 2)
    for (let j = 0; j < 16; j++) {
      const byte = bytes.getUint8(at + blockBytes - 16 + j)
      block[j] = byte & 15
      block[j + 16] = byte >> 4
    }
    packNibbles(block, quants, b)
  }
  return { form: 'q4', quants, scales, mins }
}

/** `[d half][m half, Q5_1 only][32 fifth bits][16 bytes as Q4]`; Q5_0 is centred on 16. */
function decodeQ5(bytes: DataView, type: 'Q5_0' | 'Q5_1'): Float32Array {
  const blockBytes = type === 'Q5_0' ? 22 : 24
  const values = new Float32Array((bytes.byteLength / blockBytes) * BLOCK_LENGTH)
  for (let at = 0, out = 0; at < bytes.byteLength; at += blockBytes, out += BLOCK_LENGTH) {
    const scale = readHalf(bytes, at)
    const min = type === 'Q5_0' ? -16 * scale : readHalf(bytes, at + 2)
    const fifthBits = bytes.getUint32(at + blockBytes - 20, true)
    for (let j = 0; j < 16; j++) {
      const byte = bytes.getUint8(at + blockBytes - 16 + j)
      const low = (byte & 15) | (((fifthBits >>> j) & 1) << 4)
      const high = (byte >> 4) | (((fifthBits >>> (j + 16)) & 1) << 4)
      values[out + j] = low * scale + min
      values[out + j + 16] = high * scale + min
    }
  }
  return values
}

/** `[d half][32 int8]`. */
function decodeQ8(bytes: DataView): LinearWeights {
  const blockCount = bytes.byteLength / 34
  const quants = new Int8Array(blockCount * BLOCK_LENGTH)
  const scales = new Float32Array(blockCount)
  for (let b = 0; b < blockCount; b++) {
    const at = b * 34
    scales[b] = readHalf(bytes, at)
    for (let j = 0; j < BLOCK_LENGTH; j++) {
      quants[b * BLOCK_LENGTH + j] = bytes.getInt8(at + 2 + j)
    }
  }
  return { form: 'q8', quants, scales }
}

/**
 * `[d half][dmin half][12 bytes: 8 scales and 8 mins of 6 bits][128 bytes]`: eight blocks of 32
 * with `w = d · scale · q − dmin · min`. Each 32 bytes hold a block in their low nibbles, the next
 * one in their high nibbles.
 */
function decodeQ4K(bytes: DataView): LinearWeights {
  const blockCount = (bytes.byteLength / 144) * 8
  const quants = new Uint8Array(blockCount * 16)
  const scales = new Float32Array(blockCount)
  const mins = new Float32Array(blockCount)
  const block = new Uint8Array(BLOCK_LENGTH)
  for (let b = 0; b < blockCount; b++) {
    const at = (b >> 3) * 144
    const part = b & 7
    const { scale, min } = readSixBits(bytes, at + 4, part)
    scales[b] = readHalf(bytes, at) * scale
    mins[b] = -readHalf(bytes, at + 2) * min
    const shift = (part & 1) * 4
    for (let j = 0; j < BLOCK_LENGTH; j++) {
      block[j] = (bytes.getUint8(at + 16 + (part >> 1) * 32 + j) >> shift) & 15
    }
    packNibbles(block, quants, b)
  }
  return { form: 'q4', quants, scales, mins }
}

/** Parts 0–3 lie in the low six bits of bytes 0–7; parts 4–7 take four bits of bytes 8–11 and two spare ones of 0–7. */
function readSixBits(bytes: DataView, at: number, part: number): { scale: number; min: number } {
  if (part < 4) {
    return { scale: bytes.getUint8(at + part) & 63, min: bytes.getUint8(at + part + 4) & 63 }
  }
  const fours = bytes.getUint8(at + part + 4)
  return {
    scale: (fours & 15) | ((bytes.getUint8(at + part - 4) >> 6) << 4),
    min: (fours >> 4) | ((bytes.getUint8(at + part) >> 6) << 4),
  }
}

/**
 * `[128 bytes: low four bits][64 bytes: high two bits][16 int8 scales][d half]`, centred on 32. Each
 * half of 128 values has four rows of 32: row r takes low nibbles (r < 2) or high ones of its bytes.
 */
function decodeQ6K(bytes: DataView): Float32Array {
  const values = new Float32Array((bytes.byteLength / 210) * 256)
  for (let i = 0; i < values.length; i++) {
    const at = (i >> 8) * 210
    const half = (i >> 7) & 1
    const row = (i >> 5) & 3
    const column = i & 31
    const low = bytes.getUint8(at + half * 64 + (row & 1) * 32 + column) >> ((row >> 1) * 4)
    const high = bytes.getUint8(at + 128 + half * 32 + column) >> (row * 2)
    const quant = ((low & 15) | ((high & 3) << 4)) - 32
    const scale = bytes.getInt8(at + 192 + ((i >> 4) & 15))
    values[i] = readHalf(bytes, at + 208) * scale * quant
  }
  return values
}

function readHalf(bytes: DataView, at: number): number {
  return halfToFloat(bytes.getUint16(at, true))
}
