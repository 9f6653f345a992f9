const valuesOfBits = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
})

/** The exact value of an IEEE 754 half-precision bit pattern. */
export function halfToFloat(bits: number): number {
  return valuesOfBits[bits] ?? Number.NaN
}

/** Exact values of little-endian half-precision floats at any address. */
export function halvesToFloat32(bytes: Uint8Array): Float32Array {
  const halves = new Uint16Array(new Uint8Array(bytes).buffer)
  const values = new Float32Array(halves.length)
  for (let i = 0; i < halves.length; i++) values[i] = halfToFloat(halves[i] ?? 0)
  return values
}

/** Exact values of little-endian bfloat16 floats (the upper half of a float32) at any address. */
export function bfloatsToFloat32(bytes: Uint8Array): Float32Array {
  const halves = new Uint16Array(new Uint8Array(bytes).buffer)
  const patterns = new Uint32Array(halves.length)
  for (let i = 0; i < halves.length; i++) patterns[i] = (halves[i] ?? 0) << 16
  return new Float32Array(patterns.buffer)
}

/** Exact values of little-endian float32 at any address, in memory of their own. */
export function floatsToFloat32(bytes: Uint8Array): Float32Array {
  return new Float32Array(new Uint8Array(bytes).buffer)
}
