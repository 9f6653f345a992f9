import type { TenantBody } from '../dispatch/tenant-call.ts'
import { fanOutUpload, tooLarge } from '../dispatch/upload-fan-out.ts'
import type { AppContext } from './app-context.ts'
import { readInTime } from './read-json-body.ts'

export function isUpload(c: AppContext): boolean {
  return /^multipart\/form-data\s*;/i.test(c.req.header('content-type') ?? '')
}

/**
 * Answers what may come with a large body: what is refused before the body is read is read on and
 * thrown away. A client that is cut off while it sends sees a broken connection instead of our answer.
 */
export async function answerUpload(
  c: AppContext,
  answer: () => Promise<Response>,
): Promise<Response> {
  try {
    return await answer()
  } catch (error) {
    if (!c.req.raw.bodyUsed) await discardBody(c)
    throw error
  }
}

async function discardBody(c: AppContext): Promise<void> {
  const { MAX_UPLOAD_BYTES, UPLOAD_TIMEOUT_MS } = c.var.services.config
  if (Number(c.req.header('content-length') ?? 0) > 2 * MAX_UPLOAD_BYTES) return
  let leftBytes = MAX_UPLOAD_BYTES
  for await (const chunk of readInTime(c.req.raw, UPLOAD_TIMEOUT_MS)) {
    leftBytes -= chunk.length
    if (leftBytes < 0) return
  }
}

/** Sends the upload on as it comes, to all targets at once. */
export async function spreadUpload<Target, Outcome>(
  c: AppContext,
  targets: readonly Target[],
  maxSizeBytes: number,
  send: (target: Target, body: TenantBody) => Promise<Outcome>,
): Promise<readonly Outcome[]> {
  const { UPLOAD_TIMEOUT_MS, UPSTREAM_SILENCE_MS } = c.var.services.config
  const sizeBytes = Number(c.req.header('content-length') ?? 0)
  if (sizeBytes > 2 * maxSizeBytes) throw tooLarge(maxSizeBytes)
  const upload = fanOutUpload(readInTime(c.req.raw, UPLOAD_TIMEOUT_MS), {
    branchCount: targets.length,
    maxSizeBytes,
    maxSilenceMs: UPSTREAM_SILENCE_MS,
  })
  const contentType = c.req.header('content-type') ?? ''
  const sent = upload.run()
  const outcomes = targets.map(async (target, index) => {
    const branch = upload.branches[index]
    if (branch === undefined) throw new Error('There is one copy of an upload for each target.')
    try {
      return await send(target, { contentType, body: branch.body, sent })
    } finally {
      branch.stop()
    }
  })
  const [answers] = await Promise.all([Promise.all(outcomes), sent])
  return answers
}
