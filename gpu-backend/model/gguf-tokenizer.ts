import type { GgufFile } from './gguf.ts'
import { numberAt, numbersAt, textAt, textsAt } from './gguf-metadata.ts'
import { ModelFileError } from './model-file-error.ts'
import type { ByteLevelVocabulary, TokenizerSource } from './model-source.ts'
import { checkPieces, type PieceVocabulary, pieceTypeOf } from './piece-vocabulary.ts'

/** GGUF's token types (llama.cpp, `llama_token_type`) that are matched in text as a whole. */
const CONTROL_TOKEN = 3
const USER_DEFINED_TOKEN = 4

const BYTE_LEVEL = {
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
} as const

/** What the name in `tokenizer.ggml.pre` stands for. */
interface PreTokenizer {
  readonly preTokenizer: object
  readonly normalizer: object | null
  /** Whether a piece that is a token is taken whole, whatever its merges. */
  readonly ignoresMerges: boolean
  /** Whether a prompt begins with BOS where the metadata does not say so. */
  readonly addsBos: boolean
}

const GPT2: PreTokenizer = {
  preTokenizer: BYTE_LEVEL,
  normalizer: null,
  ignoresMerges: false,
  addsBos: false,
}

/** Cuts text by a pattern of the model's own, as its `tokenizer.json` has it. */
function splitBy(pattern: string): object {
  return {
    type: 'Sequence',
    pretokenizers: [
      { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
      { ...BYTE_LEVEL, use_regex: false },
    ],
  }
}

const LLAMA3: PreTokenizer = {
  preTokenizer: splitBy(
    String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ),
  normalizer: null,
  ignoresMerges: true,
  addsBos: true,
}

/** Qwen2 and Qwen3. llama.cpp leaves the normalizer out; the model's own tokenizer has it. */
const QWEN2: PreTokenizer = {
  preTokenizer: splitBy(
    String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ),
  normalizer: { type: 'NFC' },
  ignoresMerges: false,
  addsBos: false,
}

/** Mistral Nemo and later. */
const TEKKEN: PreTokenizer = {
  preTokenizer: splitBy(
    String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
  ),
  normalizer: null,
  ignoresMerges: true,
  addsBos: true,
}

/** How text is cut before byte-pair encoding, by `tokenizer.ggml.pre`. Any other name is refused: a wrong cut is wrong ids. */
const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map([
  ['gpt-2', GPT2],
  [
    'smollm',
    {
      ...GPT2,
      preTokenizer: {
        type: 'Sequence',
        pretokenizers: [{ type: 'Digits', individual_digits: true }, BYTE_LEVEL],
      },
    },
  ],
  ['llama-bpe', LLAMA3],
  ['qwen2', QWEN2],
  ['tekken', TEKKEN],
])

/** What `tokenizer.ggml.model` stands for. Throws {@link ModelFileError} for a kind that is not supported. */
export function readGgufTokenizer(metadata: GgufFile['metadata']): TokenizerSource {
  const model = textAt(metadata, 'tokenizer.ggml.model')
  if (model === 'gpt2') return readByteLevel(metadata)
  if (model === 'llama') return readSentencePiece(metadata)
  throw new ModelFileError(
    `"tokenizer.ggml.model" is "${model}"; supported are "gpt2" (byte-level BPE) and "llama" (SentencePiece BPE).`,
  )
}

function readByteLevel(metadata: GgufFile['metadata']): TokenizerSource {
  const pre = textAt(metadata, 'tokenizer.ggml.pre')
  const rules = PRE_TOKENIZERS.get(pre)
  if (!rules) {
    throw new ModelFileError(
      `"tokenizer.ggml.pre" is "${pre}"; supported are ${[...PRE_TOKENIZERS.keys()].join(', ')}.`,
    )
  }
  const tokens = textsAt(metadata, 'tokenizer.ggml.tokens')
  if (new Set(tokens).size !== tokens.length) {
    throw new ModelFileError('"tokenizer.ggml.tokens" names a token twice.')
  }
  const types = metadata.get('tokenizer.ggml.token_type')
  const typeOf = (id: number) => (Array.isArray(types) ? types[id] : undefined)
  const vocabulary: ByteLevelVocabulary = {
    kind: 'byteLevel',
    tokenizerJson: {
      added_tokens: tokens.flatMap((content, id) => {
        const type = typeOf(id)
        if (type !== CONTROL_TOKEN && type !== USER_DEFINED_TOKEN) return []
        return [{ id, content, special: type === CONTROL_TOKEN, normalized: false }]
      }),
      normalizer: rules.normalizer,
      pre_tokenizer: rules.preTokenizer,
      post_processor: null,
      decoder: BYTE_LEVEL,
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: textsAt(metadata, 'tokenizer.ggml.merges'),
        ignore_merges: rules.ignoresMerges,
      },
    },
  }
  return describe(metadata, vocabulary, { tokens, addsBos: rules.addsBos, bos: -1, eos: -1 })
}

/** Where keys are missing: what llama.cpp takes for this kind. */
function readSentencePiece(metadata: GgufFile['metadata']): TokenizerSource {
  const tokens = textsAt(metadata, 'tokenizer.ggml.tokens')
  const types = numbersAt(metadata, 'tokenizer.ggml.token_type', tokens.length)
  const writesBlank = metadata.get('tokenizer.ggml.add_space_prefix') !== false
  const vocabulary: PieceVocabulary = {
    kind: 'pieces',
    tokens: tokens.map((text, id) => ({ text, type: pieceTypeOf(types[id]) })),
    order: { by: 'score', scores: numbersAt(metadata, 'tokenizer.ggml.scores', tokens.length) },
    prefix: { before: writesBlank ? 'part' : 'nothing', onlyWhereNone: false },
  }
  return describe(metadata, checkPieces(vocabulary), { tokens, addsBos: true, bos: 1, eos: 2 })
}

/** What is not the vocabulary's; `missing` stands for keys that are. */
function describe(
  metadata: GgufFile['metadata'],
  vocabulary: TokenizerSource['vocabulary'],
  missing: { tokens: readonly string[]; addsBos: boolean; bos: number; eos: number },
): TokenizerSource {
  const idAt = (kind: string, fallback = -1) =>
    numberAt(metadata, `tokenizer.ggml.${kind}_token_id`, fallback)
  const eosId = idAt('eos', missing.eos)
  const chatTemplate = metadata.get('tokenizer.chat_template')
  return {
    vocabulary,
    chatTemplate: typeof chatTemplate === 'string' ? chatTemplate : null,
    bosToken: missing.tokens[idAt('bos', missing.bos)] ?? null,
    eosToken: missing.tokens[eosId] ?? null,
    eosTokenIds: [eosId, idAt('eot'), idAt('eom')].filter((id) => id >= 0),
    addBos: metadata.has('tokenizer.ggml.add_bos_token')
      ? metadata.get('tokenizer.ggml.add_bos_token') === true
      : missing.addsBos,
  }
}
