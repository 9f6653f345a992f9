import { ZERO_DIGEST } from '../../protocol/digest.ts'
import type { CacheClaim } from '../access/response-cache.ts'
import { ApiError } from '../errors.ts'
import { toHex } from '../hex.ts'
import { isJsonObject } from './answer-parts.ts'
import type { GenerationRequest } from './generation-request.ts'
import type { Target } from './pick-backend.ts'

/**
 * Whether the caller wants an answer that was given before. Throws for a request whose answer is
 * left to chance.
 */
export function wantsCache({ endpoint, body }: GenerationRequest): boolean {
  if (!isJsonObject(body.tallygate) || body.tallygate.cache !== true) return false
  if (endpoint === 'responses') {
    const param = 'tallygate.cache'
    throw new ApiError('unsupported_parameter', {
      message: `${param}: responses are not cached; chat completions are`,
      param,
    })
  }
  const isFixed =
    endpoint === 'embeddings' || body.temperature === 0 || Number.isSafeInteger(body.seed)
  if (isFixed) return true
  const param = 'tallygate.cache'
  const message = `${param}: needs a temperature of 0 or a seed, so that the answer is always the same`
  throw new ApiError('invalid_request', { message, param })
}

/**
 * What the answer is kept and found by, within the account: two requests have the same when the same
 * weights are asked the same, however the JSON was written. Null for a backend that does not name its
 * weights.
 */
export async function composeCacheClaim(
  { endpoint, body, merge }: GenerationRequest,
  { model, modelDigest, adapterDigest }: Target,
): Promise<CacheClaim | null> {
  const isAdapted = merge !== null || Boolean(model.parent)
  if (modelDigest === null || (isAdapted && adapterDigest === null)) return null
  const text = [1, endpoint, modelDigest, adapterDigest, canonicalise(body)].join('\n')
  const hash = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))
  return { key: toHex(hash), modelDigest, adapterDigest: adapterDigest ?? ZERO_DIGEST }
}

/** JSON without blanks, the names of each object in order. */
export function canonicalise(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalise).join(',')}]`
  if (!isJsonObject(value)) return JSON.stringify(value)
  const names = Object.keys(value).sort()
  const parts = names.map((name) => `${JSON.stringify(name)}:${canonicalise(value[name])}`)
  return `{${parts.join(',')}}`
}
