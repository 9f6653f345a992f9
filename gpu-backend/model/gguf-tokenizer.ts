import type { GgufFile } from './gguf.ts'
import { numberAt, textAt, textsAt } from './gguf-metadata.ts'
import { ModelFileError } from './model-file-error.ts'
import type { TokenizerSource } from './model-source.ts'

/** GGUF's token types (llama.cpp, `llama_token_type`) that are matched in text as a whole. */
const CONTROL_TOKEN = 3
const USER_DEFINED_TOKEN = 4

const BYTE_LEVEL = {
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
} as const

/** How text is cut before byte-pair encoding, by `tokenizer.ggml.pre`. Any other name is refused: a wrong cut is wrong ids. */
const PRE_TOKENIZERS: ReadonlyMap<string, object> = new Map<string, object>([
  ['gpt-2', BYTE_LEVEL],
  [
    'smollm',
    {
      type: 'Sequence',
      pretokenizers: [{ type: 'Digits', individual_digits: true }, BYTE_LEVEL],
    },
  ],
])

/** A `tokenizer.json` of the byte-level BPE that the metadata describes. Throws {@link ModelFileError}. */
export function readGgufTokenizer(metadata: GgufFile['metadata']): TokenizerSource {
  const model = textAt(metadata, 'tokenizer.ggml.model')
  if (model !== 'gpt2') {
    throw new ModelFileError(
      `"tokenizer.ggml.model" is "${model}"; only "gpt2" (byte-level BPE) is supported.`,
    )
  }
  const pre = textAt(metadata, 'tokenizer.ggml.pre')
  const preTokenizer = PRE_TOKENIZERS.get(pre)
  if (!preTokenizer) {
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
  const tokenAt = (key: string): string | null => tokens[numberAt(metadata, key, -1)] ?? null
  const chatTemplate = metadata.get('tokenizer.chat_template')
  return {
    tokenizerJson: {
      added_tokens: tokens.flatMap((content, id) => {
        const type = typeOf(id)
        if (type !== CONTROL_TOKEN && type !== USER_DEFINED_TOKEN) return []
        return [{ id, content, special: type === CONTROL_TOKEN, normalized: false }]
      }),
      normalizer: null,
      pre_tokenizer: preTokenizer,
      post_processor: null,
      decoder: BYTE_LEVEL,
      model: {
        type: 'BPE',
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: textsAt(metadata, 'tokenizer.ggml.merges'),
      },
    },
    chatTemplate: typeof chatTemplate === 'string' ? chatTemplate : null,
    bosToken: tokenAt('tokenizer.ggml.bos_token_id'),
    eosToken: tokenAt('tokenizer.ggml.eos_token_id'),
    eosTokenIds: ['eos', 'eot', 'eom']
      .map((kind) => numberAt(metadata, `tokenizer.ggml.${kind}_token_id`, -1))
      .filter((id) => id >= 0),
    addBos: metadata.get('tokenizer.ggml.add_bos_token') === true,
  }
}
