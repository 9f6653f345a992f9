/**
 * What the engine needs of a model, handed in by the composition root: the engine itself imports
 * no tensor library. `compute/` implements it.
 */

/** One sequence's place in the KV cache. Its past is `length` tokens; a run appends to it. */
export interface KvRow {
  readonly id: number
  readonly length: number
  /** Tokens that fit, admitted at creation; running past it is an assertion failure. */
  readonly capacity: number
}

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
  /** Tokens of KV cache that can still be admitted. */
  readonly freeKvTokens: number
  /** Admits `capacity` tokens of KV memory before any is used; null when they do not fit now. */
  readonly createKvRow: (capacity: number) => KvRow | null
  readonly freeKvRow: (row: KvRow) => void
  /**
   * Runs one step over the rows, in one session run, and appends their keys and values. Returns
   * for each row its logits float32 (valid until the next run): [V] of the last token, [T, V] of
   * all, or null where not wanted; for a row that wants states their sum [H] float32.
   * A row's result does not depend on the other rows.
   */
  readonly run: (rows: readonly StepRow[]) => Promise<readonly (Float32Array | null)[]>
}
