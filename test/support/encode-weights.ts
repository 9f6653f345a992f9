/** Encodes floats in the storage types of model files: plain round-to-nearest, no attempt at quality. */
const ENCODERS = {
  F32: (values: Float32Array) => new Uint8Array(values.slice().buffer),
  F16: (values: Float32Array) => new Uint8Array(Uint16Array.from(values, toHalfBits).buffer),
  BF16: (values: Float32Array) => new Uint8Array(Uint16Array.from(values, toBfloatBits).buffer),
  Q4_0: (values: Float32Array) =>
    encodeBlocks(values, 18, (block, out) => {
      const scale = writeHalf(out, 0, block.reduce(furthest, 0) / -8)
      writeNibbles(out, 2, block, (value) => value / scale + 8)
    }),
  Q4_1: (values: Float32Array) =>
    encodeBlocks(values, 20, (block, out) => {
      const low = Math.min(...block)
      const scale = writeHalf(out, 0, (Math.max(...block) - low) / 15)
      const min = writeHalf(out, 2, low)
      writeNibbles(out, 4, block, (value) => (value - min) / scale)
    }),
  Q8_0: (values: Float32Array) =>
    encodeBlocks(values, 34, (block, out) => {
      const scale = writeHalf(out, 0, Math.abs(block.reduce(furthest, 0)) / 127)
      block.forEach((value, i) => {
        out.setInt8(2 + i, clamp(value / scale, -128, 127))
      })
    }),
} as const

export type EncodedType = keyof typeof ENCODERS

/** The stored bytes of row-major values; rows must be multiples of 32 for the Q types. */
export function encodeWeights(type: EncodedType, values: Float32Array): Uint8Array {
  return ENCODERS[type](values)
}

/** The bits of the nearest half-precision float, ties to even. */
function toHalfBits(value: number): number {
  const magnitude = Math.abs(value)
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14)
  const steps = roundTiesToEven(magnitude / 2 ** (exponent - 10))
  return sign | ((exponent + 14) * 1024 + steps)
}

function roundTiesToEven(value: number): number {
  const down = Math.floor(value)
  const rest = value - down
  if (rest !== 0.5) return Math.round(value)
  return down % 2 === 0 ? down : down + 1
}

function toBfloatBits(value: number): number {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0]!
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

function encodeBlocks(
  values: Float32Array,
  blockBytes: number,
  encode: (block: Float32Array, out: DataView) => void,
): Uint8Array {
  const bytes = new Uint8Array((values.length / 32) * blockBytes)
  for (let b = 0; b < values.length / 32; b++) {
    const out = new DataView(bytes.buffer, b * blockBytes, blockBytes)
    encode(values.subarray(b * 32, b * 32 + 32), out)
  }
  return bytes
}

/** Writes a half and returns its value, 1 for 0 so that it divides. */
function writeHalf(out: DataView, at: number, value: number): number {
  const bits = toHalfBits(value)
  out.setUint16(at, bits, true)
  const exponent = (bits >> 10) & 31
  const written = exponent
    ? (1024 + (bits & 1023)) * 2 ** (exponent - 25)
    : (bits & 1023) * 2 ** -24
  return (bits & 0x8000 ? -written : written) || 1
}

function writeNibbles(
  out: DataView,
  at: number,
  block: Float32Array,
  quant: (value: number) => number,
): void {
  for (let j = 0; j < 16; j++) {
    const low = clamp(quant(block[j]!), 0, 15)
    out.setUint8(at + j, low | (clamp(quant(block[j + 16]!), 0, 15) << 4))
  }
}

function furthest(left: number, right: number): number {
  return Math.abs(right) > Math.abs(left) ? right : left
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, Math.round(value)))
}
