/** What was read is not what was written; caught where the reading began. */
export class MalformedBytes extends Error {}

/** Reads one value after the other; every method throws `MalformedBytes` at the end of the bytes. */
export interface ByteReader {
  readonly offset: () => number
  readonly uint8: () => number
  /** Big-endian. */
  readonly uint32: () => number
  /** An unsigned LEB128 of the least length, up to 2^53 − 1. */
  readonly int: () => number
  readonly bytes: (count: number) => Uint8Array
}

export function createByteReader(source: Uint8Array): ByteReader {
  let offset = 0
  const bytes = (count: number): Uint8Array => {
    if (offset + count > source.length) throw new MalformedBytes('ends in the middle of a value')
    offset += count
    return source.subarray(offset - count, offset)
  }
  const uint8 = () => bytes(1)[0] ?? 0
  return {
    offset: () => offset,
    uint8,
    uint32: () => {
      const word = bytes(4)
      return new DataView(word.buffer, word.byteOffset).getUint32(0)
    },
    int: () => {
      let value = 0
      for (let scale = 1; scale <= 2 ** 49; scale *= 0x80) {
        const byte = uint8()
        value += (byte & 0x7f) * scale
        if (byte >= 0x80) continue
        if (byte === 0 && scale > 1) throw new MalformedBytes('a whole number with needless zeros')
        if (value > Number.MAX_SAFE_INTEGER) break
        return value
      }
      throw new MalformedBytes('a whole number over 2^53 - 1')
    },
    bytes,
  }
}
