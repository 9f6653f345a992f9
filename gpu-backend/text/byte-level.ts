/**
 * GPT-2's alphabet for bytes (openai/gpt-2, `bytes_to_unicode`): printable Latin-1 characters stand
 * for themselves, the other bytes for U+0100 and up, in order.
 */
export const CHAR_OF_BYTE: readonly string[] = buildAlphabet()

const BYTE_OF_CHAR: ReadonlyMap<string, number> = new Map(
  CHAR_OF_BYTE.map((char, byte) => [char, byte]),
)

/** The bytes that a byte-level token spells; null when a character of it stands for no byte. */
export function bytesOfToken(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length)
  for (let i = 0; i < token.length; i++) {
    const byte = BYTE_OF_CHAR.get(token.charAt(i))
    if (byte === undefined) return null
    bytes[i] = byte
  }
  return bytes
}

function buildAlphabet(): string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad)
    return String.fromCodePoint(isPrintable ? byte : next++)
  })
}
