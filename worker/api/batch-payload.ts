import { digestSchema } from '../../protocol/digest.ts'
import { ApiError } from '../errors.ts'
import { ArchiveStore } from '../proofs/archive-store.ts'
import type { AppContext } from './app-context.ts'

/**
 * `GET /batches/{payload hash}`: a batch payload from the archive, for anyone: it is what the chain
 * commits to, and holds no prompt, answer or account. Its keccak256 is its name, so it never changes.
 */
export async function getBatchPayload(c: AppContext): Promise<Response> {
  const payloadHash = digestSchema.safeParse(c.req.param('payloadHash'))
  const payload = payloadHash.success
    ? await new ArchiveStore(c.env.ARCHIVE).get(payloadHash.data)
    : null
  if (payload === null) {
    throw new ApiError('not_found', { message: 'There is no batch payload of this keccak256.' })
  }
  return c.body(payload, 200, {
    'content-type': 'application/octet-stream',
    'cache-control': 'public, max-age=31536000, immutable',
  })
}
