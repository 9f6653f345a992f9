import type { LinearWeights, ModelConfig, TokenizerSource } from './model-source.ts'

/** One tensor of a model file, decoded when asked for. */
export interface StoredWeights {
  /** As in the file, for messages and the digest. */
  readonly name: string
  readonly type: string
  readonly shape: readonly number[]
  /** The stored bytes. */
  readonly data: Uint8Array
  /** The stored quantised blocks, exactly; null for a type that has none of our forms. */
  readonly blocks: (() => LinearWeights) | null
  /** Exact values in float32, row-major, in memory of their own at each call. */
  readonly values: () => Float32Array
}

/** What a reader of one file format hands to `openModel`, names still those of the format. */
export interface ModelFile {
  readonly name: string
  readonly config: ModelConfig
  readonly tokenizer: TokenizerSource
  /** The largest token id of the tokenizer, plus one. */
  readonly tokenCount: number
  /** How the format spells tensor names. */
  readonly naming: 'gguf' | 'huggingFace'
  readonly tensors: ReadonlyMap<string, StoredWeights>
  /** Whether the embedding is the output head too. */
  readonly isHeadTied: boolean
  /** Whether rows of q and k lie interleaved (2i + j instead of j·D/2 + i), as in a GGUF of the llama architecture. */
  readonly isRopeInterleaved: boolean
}
