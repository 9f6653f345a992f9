import { readFileSync } from 'node:fs'
import type { TokenizerSource } from '../../gpu-backend/model/model-source.ts'
import type { PieceVocabulary } from '../../gpu-backend/model/piece-vocabulary.ts'
import { readSentencePieceModel } from '../../gpu-backend/model/sentencepiece-model.ts'
import type { GgufField } from './gguf-file.ts'

/** A tiny SentencePiece vocabulary, and the ids of the reference libraries (`tools/piece-vectors/`). */
interface PieceVectors {
  /** `tokenizer.model`, base64. */
  readonly model: string
  readonly tokenizerJson: Readonly<Record<string, unknown>> & {
    readonly model: Readonly<Record<string, unknown>>
  }
  readonly metaspace: Readonly<Record<'first' | 'always', object>>
  readonly cases: readonly ({ readonly text: string } & Readonly<
    Record<'sentencepiece' | 'legacy' | 'first' | 'always', readonly number[]>
  >)[]
}

export const PIECE_VECTORS: PieceVectors = JSON.parse(
  readFileSync(new URL('../vectors/pieces.json', import.meta.url), 'utf8'),
)

export const PIECES_MODEL = Buffer.from(PIECE_VECTORS.model, 'base64')

export const TINY_PIECES: PieceVocabulary = readSentencePieceModel(PIECES_MODEL)

/** As Mistral's instruct models have it. */
export const PIECES_CHAT_TEMPLATE =
  "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"

export function sourceOfPieces(vocabulary: PieceVocabulary): TokenizerSource {
  return {
    vocabulary,
    chatTemplate: PIECES_CHAT_TEMPLATE,
    bosToken: '<s>',
    eosToken: '</s>',
    eosTokenIds: [2],
    addBos: true,
  }
}

const GGUF_TYPES = { piece: 1, control: 3, whole: 4, unused: 5, byte: 6 } as const

/** The vocabulary as llama.cpp's converter writes it. */
export function ggufPieces(): Record<string, GgufField> {
  const { tokens, order } = TINY_PIECES
  return {
    'tokenizer.ggml.model': { text: 'llama' },
    'tokenizer.ggml.pre': { text: 'default' },
    'tokenizer.ggml.tokens': { texts: tokens.map(({ text }) => text) },
    'tokenizer.ggml.scores': { f32s: order.by === 'score' ? order.scores : [] },
    'tokenizer.ggml.token_type': { i32s: tokens.map(({ type }) => GGUF_TYPES[type]) },
    'tokenizer.ggml.bos_token_id': { u32: 1 },
    'tokenizer.ggml.eos_token_id': { u32: 2 },
    'tokenizer.ggml.unknown_token_id': { u32: 0 },
    'tokenizer.ggml.add_bos_token': { bool: true },
    'tokenizer.ggml.add_eos_token': { bool: false },
    'tokenizer.chat_template': { text: PIECES_CHAT_TEMPLATE },
  }
}
