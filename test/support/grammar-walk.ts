import { createXgrammar } from '../../gpu-backend/grammar/xgrammar.ts'
import { createRandom } from './random.ts'

/** The control token that ends an answer, then a token for each byte. */
const END = 0
const tokenBytes = [new Uint8Array(), ...Array.from({ length: 256 }, (_, i) => Uint8Array.of(i))]

export interface GrammarWalk {
  /** Walks the grammar at random, ending as soon as it may once `maxBytes` are written; null: it would not end. */
  readonly writeAtRandom: (
    grammar: string,
    seed: number,
    maxBytes?: number,
  ) => Promise<string | null>
  readonly accepts: (grammar: string, text: string) => Promise<boolean>
}

/** XGrammar over single bytes. */
export async function createGrammarWalk(): Promise<GrammarWalk> {
  const open = await createXgrammar({
    tokenBytes,
    vocabSize: tokenBytes.length,
    stopTokenIds: [END],
  })

  async function writeAtRandom(grammar: string, seed: number, maxBytes = 300) {
    const random = createRandom(seed)
    const matcher = await open(grammar)
    const bytes: number[] = []
    // Closing characters are likelier the longer the text is, or it would nest for ever.
    const closing = new Set(Array.from('"}]', (char) => char.charCodeAt(0) + 1))
    try {
      while (bytes.length < 4 * maxBytes) {
        const mask = await matcher.nextMask()
        const allowed = tokenBytes.flatMap((_, id) =>
          (mask[id >> 5]! >> (id & 31)) & 1 ? [id] : [],
        )
        const isLate = bytes.length > maxBytes / 4
        const ends = allowed.filter((id) => id === END || closing.has(id))
        const from = isLate && ends.length > 0 && random() < 0.8 ? ends : allowed
        const token = from[Math.floor(random() * from.length)]!
        matcher.accept(token)
        if (token === END)
          return new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes))
        bytes.push(token - 1)
      }
      return null
    } finally {
      matcher.dispose()
    }
  }

  async function accepts(grammar: string, text: string): Promise<boolean> {
    const matcher = await open(grammar)
    try {
      for (const token of [
        ...Array.from(new TextEncoder().encode(text), (byte) => byte + 1),
        END,
      ]) {
        const mask = await matcher.nextMask()
        if (((mask[token >> 5]! >> (token & 31)) & 1) === 0) return false
        matcher.accept(token)
      }
      return true
    } finally {
      matcher.dispose()
    }
  }

  return { writeAtRandom, accepts }
}
