import type { Digest } from '../../protocol/digest.ts'
import type { KeptAnswer } from './idempotency.ts'

/** What a request that may be answered from the cache is found by; null where it may not. */
export interface CacheClaim {
  /** SHA-256 of operation, weights and canonical body, lower-case hex. */
  readonly key: string
  /** Only an answer of just these weights is kept. */
  readonly modelDigest: Digest
  readonly adapterDigest: Digest
}

/** Larger answers are not cached. */
export const MAX_CACHED_ANSWER_BYTES = 262_144

/** How long an answer may be given again. */
export const CACHE_KEPT_MS = 24 * 3_600_000

/** An answer that is given again, and the request it was first given to. */
export interface CachedAnswer extends KeptAnswer {
  readonly requestId: string
}

/**
 * The answer under another request's id: wherever our own backend names its answer, it is
 * `chatcmpl-` or `cmpl-` and what follows `req_`, which nothing else can contain by chance.
 */
export function renameAnswer(
  { contentType, body, requestId }: CachedAnswer,
  newRequestId: string,
): KeptAnswer {
  const text = new TextDecoder().decode(body)
  const renamed = text.replaceAll(requestId.slice(4), newRequestId.slice(4))
  return { contentType, body: new TextEncoder().encode(renamed) }
}
