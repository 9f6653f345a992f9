import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import type { ByteLevelVocabulary } from '../model/model-source.ts'
import type { WholeToken } from './split-at-tokens.ts'
import type { TextEncoding } from './text-encoding.ts'
import { vocabularySchema } from './token-bytes.ts'

/** Byte-level BPE. Control tokens are kept out of the library, which would see them in any text. */
export function createByteLevelEncoding({ tokenizerJson }: ByteLevelVocabulary): TextEncoding {
  const json = vocabularySchema.parse(tokenizerJson)
  const specials = new Map<string, WholeToken>()
  for (const token of json.added_tokens) if (token.special) specials.set(token.content, token)
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
  return {
    specials,
    encode: (text) =>
      text === '' ? [] : library.encode(text.toWellFormed(), { add_special_tokens: false }).ids,
  }
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
