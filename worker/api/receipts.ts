import { ApiError } from '../errors.ts'
import { BatchStore, type RecordInBatch } from '../proofs/batch-store.ts'
import { isAnchorable } from '../proofs/create-usage-leaf.ts'
import { buildReceipt } from '../proofs/receipt.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { LEDGER_RETRY_MS } from './render-error.ts'

/** A request by its own id, or by that of its answer. */
const REQUEST_OR_ANSWER_ID = /^(?:req_|chatcmpl-|cmpl-|resp_)([0-9a-zA-Z]{1,59})$/

/** `GET /v1/receipts/{id}`: the proof of one of the account's requests, as far as it is anchored. */
export async function getReceipt(c: AppContext): Promise<Response> {
  const { accountId } = await describeCaller(c, 'receipts:read')
  const [, suffix] = REQUEST_OR_ANSWER_ID.exec(c.req.param('id') ?? '') ?? []
  const store = new BatchStore(c.var.services.database)
  const found = suffix === undefined ? null : await findRecord(c, store, `req_${suffix}`)
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

/** A record may still be on its way to D1 when it is first asked for. */
async function findRecord(
  c: AppContext,
  store: BatchStore,
  requestId: string,
): Promise<RecordInBatch | null> {
  const found = await store.findRecord(requestId)
  if (found !== null) return found
  const { account } = c.var.services
  if (!(await account(c.var.caller.accountId).flushLedger()))
    throw new ApiError('ledger_unavailable', { retryAfterMs: LEDGER_RETRY_MS })
  return store.findRecord(requestId)
}
