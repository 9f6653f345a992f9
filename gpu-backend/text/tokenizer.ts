import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import type { TokenizerSource } from '../model/model-source.ts'
import { escapePattern } from './escape-pattern.ts'
import { listTokenBytes, vocabularySchema } from './token-bytes.ts'

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
   * reference implementations do; a lone surrogate is U+FFFD.
   */
  readonly encode: (text: string, options: { readonly specials: boolean }) => number[]
  /** The text cut at its control tokens: their ids, and the texts between them. */
  readonly splitAtSpecials: (text: string) => readonly (number | string)[]
  /** See {@link listTokenBytes}; empty for an id outside the vocabulary. */
  readonly tokenBytes: (id: number) => Uint8Array
}

interface SpecialToken {
  readonly id: number
  readonly lstrip: boolean
  readonly rstrip: boolean
}

/** A byte-level BPE tokenizer. Control tokens are kept out of the library, which would see them in any text. */
export function createTokenizer(source: TokenizerSource): Tokenizer {
  const json = vocabularySchema.parse(source.tokenizerJson)
  const specials = new Map<string, SpecialToken>()
  for (const token of json.added_tokens) if (token.special) specials.set(token.content, token)
  const ids = new Set([...specials.values()].map(({ id }) => id))
  const vocab = Object.entries(json.model.vocab).filter(([token]) => !specials.has(token))
  const library = new LibraryTokenizer(
    {
      ...json,
      added_tokens: json.added_tokens.filter(({ special }) => !special),
      normalizer: json.normalizer ?? null,
      pre_tokenizer: matchReference(json.pre_tokenizer ?? null),
      post_processor: null,
      decoder: null,
      model: { ...json.model, vocab: Object.fromEntries(vocab), unk_token: null },
    },
    {},
  )
  const encodePlain = (text: string) =>
    text === '' ? [] : library.encode(text.toWellFormed(), { add_special_tokens: false }).ids
  const splitAtSpecials = createSplitter(specials)
  const bytes = listTokenBytes(source)
  const none = new Uint8Array()
  return {
    vocabSize: bytes.length,
    bosTokenId: source.addBos ? (specials.get(source.bosToken ?? '')?.id ?? null) : null,
    specials: [...specials.keys()],
    isSpecial: (id) => ids.has(id),
    encode: (text, options) =>
      options.specials
        ? splitAtSpecials(text).flatMap((part) =>
            typeof part === 'number' ? part : encodePlain(part),
          )
        : encodePlain(text),
    splitAtSpecials,
    tokenBytes: (id) => bytes[id] ?? none,
  }
}

/** Leftmost, then longest match; a token may swallow the blanks beside it. */
function createSplitter(specials: ReadonlyMap<string, SpecialToken>) {
  if (specials.size === 0) return (text: string) => [text]
  const longestFirst = [...specials].sort(([left], [right]) => right.length - left.length)
  const alternatives = longestFirst.map(([content, { lstrip, rstrip }]) => {
    const literal = `(?:${escapePattern(content)})`
    return `${lstrip ? '\\s*' : ''}${literal}${rstrip ? '\\s*' : ''}`
  })
  const idOf = (match: string) => (specials.get(match) ?? specials.get(match.trim()))?.id
  const pattern = new RegExp(`(${alternatives.join('|')})`, 'u')
  return (text: string): readonly (number | string)[] =>
    text
      .split(pattern)
      .map((part, index) => (index % 2 === 0 ? part : (idOf(part) ?? part)))
      .filter((part) => part !== '')
}

/** GPT-2's pattern (tokenizers, `pre_tokenizers/byte_level.rs`). */
const GPT2_PATTERN =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * Rewrites the two pre-tokenizers in which the JavaScript library differs from the reference, as
 * `Split`, in which it does not: its `Digits` knows only decimal digits (not ½ or ②), and its
 * `ByteLevel` takes `\s` as JavaScript does (with U+FEFF, without U+0085).
 */
function matchReference(preTokenizer: unknown): unknown {
  if (typeof preTokenizer !== 'object' || preTokenizer === null) return preTokenizer
  // Whatever the fields are, they are passed on or compared.
  const config = preTokenizer as Readonly<Record<string, unknown>>
  const split = (Regex: string) => ({
    type: 'Split',
    pattern: { Regex },
    behavior: 'Isolated',
    invert: false,
  })
  switch (config.type) {
    case 'Sequence': {
      const parts = Array.isArray(config.pretokenizers) ? config.pretokenizers : []
      return { ...config, pretokenizers: parts.map(matchReference) }
    }
    case 'Digits':
      return split(config.individual_digits === true ? '\\p{N}' : '\\p{N}+')
    case 'ByteLevel':
      if (config.use_regex === false || config.add_prefix_space === true) return config
      return {
        type: 'Sequence',
        pretokenizers: [split(GPT2_PATTERN), { ...config, use_regex: false }],
      }
    default:
      return config
  }
}
