/** What a request with an `Idempotency-Key` claims; null where it has none. */
export interface IdempotencyClaim {
  /** As the caller sent it; holds for the API key that sent it. */
  readonly key: string
  /** SHA-256 of operation and body, lower-case hex: the same request, or another one. */
  readonly fingerprint: string
}

/** An answer as it went out, to be given again. */
export interface KeptAnswer {
  readonly contentType: string
  readonly body: Uint8Array
}

/** Larger answers are not kept: a row of the object's database holds 2 MB. */
export const MAX_KEPT_ANSWER_BYTES = 1_048_576

/** How long an `Idempotency-Key` is remembered. */
export const IDEMPOTENCY_KEPT_MS = 24 * 3_600_000

/** What is remembered of the first request with an `Idempotency-Key`. */
export interface IdempotencyRow {
  readonly requestId: string
  readonly fingerprint: string
  readonly createdAtMs: number
  /** Null: not there yet, too large, never whole, or given up for newer ones. */
  readonly answer: KeptAnswer | null
}

export type Recall =
  /** Nothing that counts: the request runs. */
  | { readonly outcome: 'new' }
  | { readonly outcome: 'replay'; readonly answer: KeptAnswer }
  /** The first request still runs. */
  | { readonly outcome: 'in_flight' }
  | { readonly outcome: 'idempotency_conflict'; readonly why: 'other_request' | 'answer_not_kept' }

/** What a second request with the same `Idempotency-Key` gets. */
export function recallAnswer(
  row: IdempotencyRow | null,
  claim: IdempotencyClaim,
  { isOpen, nowMs }: { readonly isOpen: boolean; readonly nowMs: number },
): Recall {
  if (row === null) return { outcome: 'new' }
  if (!isOpen && nowMs - row.createdAtMs >= IDEMPOTENCY_KEPT_MS) return { outcome: 'new' }
  if (row.fingerprint !== claim.fingerprint)
    return { outcome: 'idempotency_conflict', why: 'other_request' }
  if (isOpen) return { outcome: 'in_flight' }
  if (row.answer === null) return { outcome: 'idempotency_conflict', why: 'answer_not_kept' }
  return { outcome: 'replay', answer: row.answer }
}
