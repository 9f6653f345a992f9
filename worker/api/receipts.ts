import { ApiError } from '../errors.ts'
import { BatchStore, type RecordInBatch } from '../proofs/batch-store.ts'
import { isAnchorable } from '../proofs/create-usage-leaf.ts'
import { buildReceipt } from '../proofs/receipt.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'

/** A request by its own id, or by that of its answer. */
const REQUEST_OR_ANSWER_ID = /^(?:req_|chatcmpl-|cmpl-|resp_)([0-9a-zA-Z]{1,59})$/

/** `GET /v1/receipts/{id}`: the proof of one of the account's requests, as far as it is anchored. */
export async function getReceipt(c: AppContext): Promise<Response> {
  const { accountId } = await describeCaller(c, 'receipts:read')
  const [, suffix] = REQUEST_OR_ANSWER_ID.exec(c.req.param('id') ?? '') ?? []
  const store = new BatchStore(c.var.services.database)
  const found = suffix === undefined ? null : await awaitRecord(store, `req_${suffix}`)
  if (found === null || found.record.accountId !== accountId) {
    throw new ApiError('not_found', { message: 'There is no settled request of this id.' })
  }
  const { record, batch } = found
  if (!isAnchorable(record)) {
    throw new ApiError('not_found', {
      message: 'The request was not billed, so there is nothing to prove.',
    })
  }
  const account = await c.var.services.account(accountId).describeAccount()
  if (account === null) throw new Error(`${accountId} is unknown to itself.`)
  const receipt = buildReceipt({
    record,
    accountSalt: account.salt,
    batch: batch && { row: batch, leafHashes: await store.listLeafHashes(batch.id) },
  })
  return c.json(receipt)
}

const ATTEMPT_COUNT = 6
/** Doubled after each: 1.5 s in all, and a record is flushed after one. */
const FIRST_INTERVAL_MS = 50

/** A record reaches D1 a moment after the answer went out; who asks at once is made to wait for it. */
async function awaitRecord(store: BatchStore, requestId: string): Promise<RecordInBatch | null> {
  for (let attempt = 1; ; attempt++) {
    const found = await store.findRecord(requestId)
    if (found !== null || attempt === ATTEMPT_COUNT) return found
    await new Promise((resolve) => setTimeout(resolve, FIRST_INTERVAL_MS * 2 ** (attempt - 1)))
  }
}
