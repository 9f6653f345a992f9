import type { MessagePort } from 'node:worker_threads'

/** What the engine thread says to the grammar thread; `id` is a matcher's, chosen by the former. */
export type GrammarCommand =
  | { readonly kind: 'open'; readonly id: number; readonly grammar: string }
  | { readonly kind: 'accept'; readonly id: number; readonly tokenId: number }
  | { readonly kind: 'seek_mask'; readonly id: number }
  | { readonly kind: 'dispose'; readonly id: number }

export type GrammarReport =
  /** The answer to `seek_mask`. */
  | { readonly kind: 'mask'; readonly id: number; readonly mask: Int32Array }
  /** The stack of what was thrown; the matcher is of no use any more. */
  | { readonly kind: 'fault'; readonly id: number; readonly detail: string }

export interface GrammarVocabulary {
  /** [≤ V] The bytes of each token; empty for control tokens, which no grammar allows. */
  readonly tokenBytes: readonly Uint8Array[]
  /** V: the logits of a step. */
  readonly vocabSize: number
  /** Allowed where an answer may end. */
  readonly stopTokenIds: readonly number[]
}

/** What the grammar thread is started with. It says `null` when it is ready, and otherwise ends with an error. */
export interface GrammarThreadOptions {
  readonly vocabulary: GrammarVocabulary
  readonly port: MessagePort
}
