import type { Digest } from '../../protocol/digest.ts'
import type { PieceVocabulary } from './piece-vocabulary.ts'
import type { RopeScaling } from './rope.ts'

/** The shape of a Llama-family model. Letters: L layers, N query heads, K key/value heads, D head size, H hidden, F FFN, V vocabulary. */
export interface ModelConfig {
  readonly layerCount: number
  readonly hiddenSize: number
  readonly headCount: number
  readonly kvHeadCount: number
  readonly headSize: number
  readonly ffnSize: number
  readonly vocabSize: number
  /** Positions the model was made for; prompt and answer together must fit. */
  readonly contextLength: number
  readonly ropeTheta: number
  readonly ropeScaling: RopeScaling
  readonly normEpsilon: number
  /** Whether biases are added to the outputs of q, k and v (Qwen2). */
  readonly hasQkvBias: boolean
  /** Whether each head of q and k is normalised before it is rotated (Qwen3). */
  readonly hasQkNorm: boolean
}

/** The seven linear layers of a block, as PEFT's target modules call them without `_proj`. */
export const LINEAR_NAMES = ['q', 'k', 'v', 'o', 'gate', 'up', 'down'] as const

export type LinearName = (typeof LINEAR_NAMES)[number]

/** `[inputs, outputs]` of each linear layer. */
export function linearSizes(config: ModelConfig): Record<LinearName, readonly [number, number]> {
  const { hiddenSize, ffnSize, headSize } = config
  const queries = config.headCount * headSize
  const keys = config.kvHeadCount * headSize
  return {
    q: [hiddenSize, queries],
    k: [hiddenSize, keys],
    v: [hiddenSize, keys],
    o: [queries, hiddenSize],
    gate: [hiddenSize, ffnSize],
    up: [hiddenSize, ffnSize],
    down: [ffnSize, hiddenSize],
  }
}

/**
 * The weights of one linear layer, rows in the Hugging Face order (q and k of a GGUF already
 * un-permuted). `out` rows of `in` values; blocks are 32 values along `in`.
 */
export type LinearWeights =
  | { readonly form: 'f32'; readonly values: Float32Array /* [out, in] */ }
  | {
      /** `w = scale · q + min`, q in 0…15: the blocks of Q4_1, and of Q4_0 with `min = −8 · scale`. */
      readonly form: 'q4'
      /** [out, in/32, 16] uint8: elements 2j (low nibble) and 2j+1 (high), as MatMulNBits wants them. */
      readonly quants: Uint8Array
      readonly scales: Float32Array /* [out, in/32] */
      readonly mins: Float32Array /* [out, in/32] */
    }
  | {
      /** `w = scale · q`, q in −128…127: the blocks of Q8_0. */
      readonly form: 'q8'
      readonly quants: Int8Array /* [out, in/32, 32] */
      readonly scales: Float32Array /* [out, in/32] */
    }
  | {
      /** `w · R = scale · q`, q in −127…127 and R the rotation of `rotation.ts`: one scale a row. */
      readonly form: 'rotated8'
      readonly quants: Int8Array /* [out, in] */
      readonly scales: Float32Array /* [out] */
    }

/** A vocabulary of byte-level BPE. */
export interface ByteLevelVocabulary {
  readonly kind: 'byteLevel'
  /** The fields of a `tokenizer.json`, read or synthesised from GGUF metadata. */
  readonly tokenizerJson: Readonly<Record<string, unknown>>
}

/** What the tokenizer is made from. */
export interface TokenizerSource {
  readonly vocabulary: ByteLevelVocabulary | PieceVocabulary
  /** Jinja source of the chat template; null: the model has none, and chat is refused. */
  readonly chatTemplate: string | null
  readonly bosToken: string | null
  readonly eosToken: string | null
  /** Tokens that end an answer. */
  readonly eosTokenIds: readonly number[]
  /** Whether a prompt begins with the BOS token that the template does not write itself. */
  readonly addBos: boolean
}

/** An opened model file: metadata at once, tensors when asked for. */
export interface ModelSource {
  /** What `/v1/models` calls it. */
  readonly name: string
  readonly config: ModelConfig
  readonly tokenizer: TokenizerSource
  /** SHA-256 over names, shapes and the exact stored weights of all tensors. */
  readonly digest: Digest
  readonly linear: (layer: number, name: LinearName) => LinearWeights
  readonly norm: (layer: number, which: 'attention' | 'ffn') => Float32Array /* [H] */
  readonly finalNorm: () => Float32Array /* [H] */
  /** [outputs of the layer]; null where the model has no biases. */
  readonly bias: (layer: number, name: 'q' | 'k' | 'v') => Float32Array | null
  /** [D]; null where the model does not normalise heads. */
  readonly headNorm: (layer: number, which: 'q' | 'k') => Float32Array | null
  /** [V, H]: the embedding table. */
  readonly embedding: () => LinearWeights
  /** [V, H]: the output head; where they are tied, the very object that `embedding` gives unless it is rotated. */
  readonly head: () => LinearWeights
}

export const PRECISIONS = ['int8', 'int4', 'fp32'] as const

/**
 * `int8`: rotated rows of int8, fastest where requests run together. `int4`: the file's own blocks, three
 * quarters of the memory. `fp32`: every weight exact in 32-bit floats, the referee.
 */
export type Precision = (typeof PRECISIONS)[number]
