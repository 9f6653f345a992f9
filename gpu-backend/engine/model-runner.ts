/**
 * What the engine needs of a model, handed in by the composition root: the engine itself imports
 * no tensor library. `compute/` implements it.
 */

/** One sequence's place in the KV cache. Its past is `length` tokens; a run appends to it. */
export interface KvRow {
  readonly id: number
  readonly length: number
  /** Tokens that fit into its pages; running past it is an assertion failure. */
  readonly capacity: number
}

/** `filled`: the page holds the row's next tokens already, as many as fit. */
export type PageContent = 'empty' | 'filled'

/** One sequence's share of a step: one token for decode, a chunk of its prompt for prefill. */
export interface StepRow {
  readonly kv: KvRow
  /** [T] int32, T ≥ 1: tokens to run at positions `kv.length …`. */
  readonly tokens: Int32Array
  /** The adapter's digest, loaded by `loadAdapter`; null for the base model. */
  readonly adapter: string | null
  /** Whether the logits after the last token are wanted (not for a chunk that does not end its prompt), or after each. */
  readonly wantLogits: boolean | 'all'
  /** Instead of logits: the sum of the tokens' states after the final norm. */
  readonly wantStates?: boolean
}

export interface ModelRunner {
  readonly vocabSize: number
  readonly contextLength: number
  /** The KV cache is pages 0 … `kvPageCount` − 1, of `kvPageTokens` tokens each. */
  readonly kvPageTokens: number
  readonly kvPageCount: number
  /** A row without pages. */
  readonly createKvRow: () => KvRow
  /** Gives the row its next page, which is in no other row. A filled one follows full ones only. */
  readonly addKvPage: (row: KvRow, page: number, content: PageContent) => void
  /** Page `to`, which is in no row, then holds what page `from` holds. */
  readonly copyKvPage: (from: number, to: number) => void
  /** The row is gone; what its pages hold stays until they are given out as empty. */
  readonly freeKvRow: (row: KvRow) => void
  /**
   * Runs one step over the rows and appends their keys and values. Returns for each row its logits
   * float32 (valid until the next run): [V] of the last token, [T, V] of all, or null where not wanted; for a row that wants states their sum [H] float32.
   * A row's result does not depend on the other rows.
   */
  readonly run: (rows: readonly StepRow[]) => Promise<readonly (Float32Array | null)[]>
}
