import { ModelFileError } from './model-file-error.ts'

/** SentencePiece's blank. */
export const BLANK = '\u2581'

/**
 * `piece`: made by merging. `byte`: one byte of what no piece spells, `<0x0A>`. `control`: never made
 * from text. `whole`: matched in text before anything is merged. `unused`: an id without text.
 */
export type PieceType = 'piece' | 'byte' | 'control' | 'whole' | 'unused'

export interface PieceToken {
  readonly text: string
  readonly type: PieceType
  /** Whether a control token swallows the blanks before or after it. */
  readonly lstrip?: boolean
  readonly rstrip?: boolean
}

/** Which of two neighbours are merged first; of equal ones the leftmost. */
export type MergeOrder =
  /** By the score of what they become, the greatest first: [V], by id. */
  | { readonly by: 'score'; readonly scores: readonly number[] }
  /** By their place in a list, the first first. */
  | { readonly by: 'list'; readonly merges: readonly (readonly [string, string])[] }

/** The blank that is written before a text. */
export interface PrefixBlank {
  /** `text`: where the prompt begins; `part`: after each token that is matched as a whole, too. */
  readonly before: 'nothing' | 'text' | 'part'
  /** Whether a text that begins with a blank is left as it is. */
  readonly onlyWhereNone: boolean
}

/** A vocabulary of SentencePiece's BPE with bytes for what it lacks. */
export interface PieceVocabulary {
  readonly kind: 'pieces'
  /** By id; no two pieces are spelled alike. */
  readonly tokens: readonly PieceToken[]
  readonly order: MergeOrder
  readonly prefix: PrefixBlank
}

/**
 * Throws {@link ModelFileError} where a text could be lost or could take more tokens than it has
 * bytes and one, which is the gateway's bound.
 */
export function checkPieces(vocabulary: PieceVocabulary): PieceVocabulary {
  const { tokens } = vocabulary
  const used = tokens.filter(({ type }) => type !== 'unused').map(({ text }) => text)
  if (new Set(used).size !== used.length) {
    throw new ModelFileError('The tokenizer names a token twice.')
  }
  const byteCount = tokens.filter(({ type, text }) => type === 'byte' && isByte(text)).length
  if (byteCount !== 256) {
    throw new ModelFileError(`The tokenizer has ${byteCount} of the 256 tokens for single bytes.`)
  }
  if (!tokens.some(({ type, text }) => type === 'piece' && text === BLANK)) {
    throw new ModelFileError(`The tokenizer has no token for a blank ("${BLANK}").`)
  }
  const short = tokens.find(({ type, text }) => type === 'whole' && Buffer.byteLength(text) < 2)
  if (short) {
    throw new ModelFileError(
      `The tokenizer matches ${JSON.stringify(short.text)} as a whole; only longer tokens are supported.`,
    )
  }
  return vocabulary
}

/** How a byte is spelled as a token. */
export function isByte(text: string): boolean {
  return /^<0x[0-9A-F]{2}>$/.test(text)
}

/** SentencePiece's and GGUF's numbers for what a token is. */
const TYPES: readonly (PieceType | null)[] = [
  null,
  'piece',
  'control', // the unknown token: with bytes nothing is unknown
  'control',
  'whole',
  'unused',
  'byte',
]

export function pieceTypeOf(number: unknown): PieceType {
  const type = typeof number === 'number' ? TYPES[number] : undefined
  if (type) return type
  throw new ModelFileError(`The tokenizer has a token of the unknown type ${String(number)}.`)
}
