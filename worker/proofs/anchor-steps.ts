import { keccak256 } from 'viem'
import { encodeBatchPayload } from '../../protocol/batch-payload.ts'
import type { Digest } from '../../protocol/digest.ts'
import type { AnchorLookup } from './anchor-client.ts'
import type { Batch } from './batch-store.ts'
import type { CyclePorts } from './cycle-ports.ts'
import { createBatchEntry, planBatch } from './plan-batch.ts'
import type { CycleAction } from './plan-cycle.ts'
import type { FeesPerGas } from './plan-fees.ts'

export type StepResult =
  | { readonly outcome: 'advanced'; readonly note: string }
  /** Nothing to do now; the next cycle looks again. */
  | { readonly outcome: 'waiting' }

/** The most records that are read for one batch, and the least that one takes of its payload. */
const MAX_BATCH_LEAVES = 10_000
const MIN_ENTRY_BYTES = 80

/** How often a replacement is made dearer in one go before the next cycle. */
const MAX_RAISE_COUNT = 12

const POLL_MS = 500

const WAITING: StepResult = { outcome: 'waiting' }
const advanced = (note = ''): StepResult => ({ outcome: 'advanced', note })

/** Carries one action out. Rejects where it failed; then it may be carried out again. */
export async function performAction(action: CycleAction, ports: CyclePorts): Promise<StepResult> {
  switch (action.kind) {
    case 'plan':
      return planNext(ports)
    case 'reopen':
      return reopen(action.aboveId, ports)
    case 'archive':
      return archive(action.batch, ports)
    case 'post':
      return post(action.batch, ports)
    case 'submit':
      return submit(action.batch, ports)
    case 'confirm':
      return confirm(action.batch, ports)
    case 'inspect':
      return inspect(action.batch, action.finalizedBlockNumber, ports)
  }
}

async function planNext({ store, limits, nowMs }: CyclePorts): Promise<StepResult> {
  const fitting = Math.ceil(limits.maxBytes / MIN_ENTRY_BYTES)
  const recordLimit = Math.min(MAX_BATCH_LEAVES, fitting)
  const records = await store.listUnanchored(recordLimit)
  const plan = planBatch(records, limits, {
    nowMs: nowMs(),
    areAll: records.length < recordLimit,
  })
  if (plan.outcome === 'wait') return WAITING
  const { leaves, payloadBytes } = plan.batch
  if (!(await store.insertPlanned(plan.batch, nowMs()))) return WAITING
  return advanced(`${leaves.length} leaves, ${payloadBytes} bytes`)
}

async function reopen(aboveId: number, { store, nowMs }: CyclePorts): Promise<StepResult> {
  return advanced(`${await store.reopenAbove(aboveId, nowMs())} batches are no longer on chain`)
}

async function archive(batch: Batch, ports: CyclePorts): Promise<StepResult> {
  await ports.archive.put(batch.payloadHash, await buildPayload(batch, ports))
  if ((await ports.archive.get(batch.payloadHash)) === null) {
    throw new Error('The archive does not give back what was written to it.')
  }
  return moved(await ports.store.markArchived(batch.id, ports.nowMs()))
}

async function post(batch: Batch, ports: CyclePorts): Promise<StepResult> {
  const { store, da, limits, nowMs } = ports
  const useArchive = async (reason: string) =>
    moved(await store.markPosted(batch.id, null, nowMs()), `archive alone: ${reason}`)
  if (da === null) return useArchive('no DA layer is configured')

  const payload = await buildPayload(batch, ports)
  const put = await da.put(payload)
  if (put.outcome === 'fail_over') return useArchive(put.reason)
  let reason: string
  if (put.outcome === 'stored') {
    const readBack = await da.get(put.commitment)
    if (readBack.outcome === 'found' && keccak256(readBack.payload) === batch.payloadHash) {
      return moved(await store.markPosted(batch.id, put.commitment, nowMs()))
    }
    reason =
      readBack.outcome === 'found'
        ? 'the DA proxy gives back other bytes than were put'
        : `what was put cannot be read back: ${readBack.reason}`
  } else {
    reason = put.reason
  }
  if (nowMs() - batch.updatedAtMs >= limits.daPatienceMs) return useArchive(reason)
  throw new Error(reason)
}

async function submit(batch: Batch, ports: CyclePorts): Promise<StepResult> {
  const lookup = await findAnchor(batch, ports)
  // A transaction of ours got there, but the process ended before that was written down.
  if (lookup.outcome === 'anchored') return recordAnchor(batch, lookup, ports)
  return advanced(await send(batch, null, ports))
}

async function confirm(batch: Batch, ports: CyclePorts): Promise<StepResult> {
  const { chain, limits, nowMs, sleep } = ports
  let lookup = await findAnchor(batch, ports)
  if (lookup.outcome === 'absent') {
    const tx =
      batch.txHash === null
        ? ({ outcome: 'unknown' } as const)
        : await chain.readTransaction(batch.txHash)
    if (tx.outcome !== 'pending') await send(batch, null, ports)
    else if (nowMs() - batch.updatedAtMs >= limits.pendingTooLongMs)
      await send(batch, tx.fees, ports)
    const deadlineMs = nowMs() + limits.confirmWaitMs
    for (;;) {
      lookup = await findAnchor(batch, ports)
      if (lookup.outcome === 'anchored' || nowMs() >= deadlineMs) break
      await sleep(POLL_MS)
    }
  }
  return lookup.outcome === 'absent' ? WAITING : recordAnchor(batch, lookup, ports)
}

async function inspect(
  batch: Batch,
  finalizedBlockNumber: number | null,
  ports: CyclePorts,
): Promise<StepResult> {
  const lookup = await findAnchor(batch, ports)
  // Gone since the head was read: the next cycle's head says so.
  if (lookup.outcome === 'absent') return WAITING
  const { txHash, blockNumber } = lookup.place
  if (txHash !== batch.txHash || blockNumber !== batch.blockNumber) {
    return recordAnchor(batch, lookup, ports)
  }
  if (finalizedBlockNumber === null || blockNumber > finalizedBlockNumber) return WAITING
  return moved(await ports.store.markFinal(batch.id, ports.nowMs()), `block ${blockNumber}`)
}

/**
 * Sends the anchoring transaction. Its hash is written down before it goes out, so that a crash
 * leaves no transaction that nobody knows of.
 */
async function send(
  batch: Batch,
  replaced: FeesPerGas | null,
  { store, chain, nowMs }: CyclePorts,
): Promise<Digest> {
  let fees = replaced
  for (let raiseCount = 0; raiseCount <= MAX_RAISE_COUNT; raiseCount++) {
    const signed = await chain.sign(batch, fees)
    if (!(await store.markSubmitted(batch.id, signed.txHash, nowMs()))) {
      throw new Error(`Another writer moved batch ${batch.id} on.`)
    }
    if ((await chain.broadcast(signed.raw)) === 'sent') return signed.txHash
    fees = signed.fees
  }
  throw new Error('A pending transaction of the anchoring account pays too much to be replaced.')
}

async function findAnchor(batch: Batch, { store, chain }: CyclePorts): Promise<AnchorLookup> {
  return chain.findAnchor(batch, await store.readPreviousBlockNumber(batch.id))
}

async function recordAnchor(
  batch: Batch,
  { place }: Extract<AnchorLookup, { outcome: 'anchored' }>,
  { store, nowMs }: CyclePorts,
): Promise<StepResult> {
  const isRecorded = await store.markConfirmed(batch.id, place, nowMs())
  return moved(isRecorded, `transaction ${place.txHash}, block ${place.blockNumber}`)
}

/** The batch's payload from its records; throws where they do not make it (they never change). */
async function buildPayload(batch: Batch, { store }: CyclePorts): Promise<Uint8Array> {
  const records = await store.listRecords(batch.id)
  const payload = encodeBatchPayload(records.map(createBatchEntry))
  if (keccak256(payload) !== batch.payloadHash) {
    throw new Error('The records in the database do not make the payload that was planned.')
  }
  return payload
}

/** A transition that another writer was faster with is none of ours. */
function moved(isOurs: boolean, note = ''): StepResult {
  return isOurs ? advanced(note) : WAITING
}
