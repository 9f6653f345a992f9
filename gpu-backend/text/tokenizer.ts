import type { TokenizerSource } from '../model/model-source.ts'
import { createByteLevelEncoding } from './byte-level-encoding.ts'
import { createPieceEncoding } from './piece-encoder.ts'
import { createSplitter, type SplitAtTokens } from './split-at-tokens.ts'
import { listTokenBytes } from './token-bytes.ts'

export interface Tokenizer {
  /** The largest id plus one; the weights may have more rows. */
  readonly vocabSize: number
  /** Written before a raw prompt where the model wants it; null where it does not. */
  readonly bosTokenId: number | null
  /** The spellings of the control tokens. */
  readonly specials: readonly string[]
  readonly isSpecial: (id: number) => boolean
  /**
   * Ids of a text. With `specials: false` no text becomes a control token, whatever it spells: the
   * only way to encode what a user wrote. A byte that the vocabulary lacks is left out, as the
   * reference implementations do; a lone surrogate is U+FFFD. With `continues` the text does not
   * begin the prompt.
   */
  readonly encode: (
    text: string,
    options: { readonly specials: boolean; readonly continues?: boolean },
  ) => number[]
  /** The text cut at its control tokens: their ids, and the texts between them. */
  readonly splitAtSpecials: SplitAtTokens
  /** See {@link listTokenBytes}; empty for an id outside the vocabulary. */
  readonly tokenBytes: (id: number) => Uint8Array
  /** Whether the blank that a prompt's bytes begin with was written by the tokenizer. */
  readonly addsBlank: boolean
}

export function createTokenizer(source: TokenizerSource): Tokenizer {
  const { vocabulary } = source
  const { specials, encode } =
    vocabulary.kind === 'pieces'
      ? createPieceEncoding(vocabulary)
      : createByteLevelEncoding(vocabulary)
  const ids = new Set([...specials.values()].map(({ id }) => id))
  const splitAtSpecials = createSplitter(specials)
  const bytes = listTokenBytes(source)
  const none = new Uint8Array()
  return {
    vocabSize: bytes.length,
    bosTokenId: source.addBos ? (specials.get(source.bosToken ?? '')?.id ?? null) : null,
    specials: [...specials.keys()],
    isSpecial: (id) => ids.has(id),
    encode: (text, { specials: sees, continues = false }) =>
      (sees ? splitAtSpecials(text) : [text]).flatMap((part, i) =>
        typeof part === 'number' ? part : encode(part, !continues && i === 0),
      ),
    splitAtSpecials,
    tokenBytes: (id) => bytes[id] ?? none,
    addsBlank: vocabulary.kind === 'pieces' && vocabulary.prefix.before !== 'nothing',
  }
}
