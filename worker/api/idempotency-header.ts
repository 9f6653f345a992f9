import type { IdempotencyClaim } from '../access/idempotency.ts'
import type { GenerationRequest } from '../dispatch/generation-request.ts'
import { joinBytes } from '../dispatch/join-bytes.ts'
import { ApiError } from '../errors.ts'
import { toHex } from '../hex.ts'
import type { AppContext } from './app-context.ts'

/** Printable ASCII, as OpenAI's and Stripe's clients send it. */
const KEY_PATTERN = /^[\x21-\x7e]{1,255}$/

/** The request's claim to be answered once; null when it makes none. Throws for a key that is no key. */
export async function readIdempotencyClaim(
  c: AppContext,
  { endpoint, bodyBytes, receivedBytes = bodyBytes }: GenerationRequest,
): Promise<IdempotencyClaim | null> {
  const key = c.req.header('idempotency-key')
  if (key === undefined) return null
  if (!KEY_PATTERN.test(key)) {
    throw new ApiError('invalid_request', {
      message: 'Idempotency-Key: must be 1 to 255 printable ASCII characters',
      param: 'Idempotency-Key',
    })
  }
  const hashed = joinBytes([new TextEncoder().encode(`${endpoint}\n`), receivedBytes])
  return { key, fingerprint: toHex(await crypto.subtle.digest('SHA-256', hashed)) }
}
