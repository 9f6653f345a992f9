import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { BatchStore } from '../../../worker/proofs/batch-store.ts'
import { type PlannedBatch, planBatch } from '../../../worker/proofs/plan-batch.ts'
import { createRecord, insertRecords } from '../../support/usage-records.ts'

const HASH = `0x${'a'.repeat(64)}` as const
const CONTRACT = `0x${'c'.repeat(40)}` as const
const PLACE = { chainId: 1612, contract: CONTRACT, txHash: HASH, blockNumber: 7 }

const store = new BatchStore(env.DB)

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))

/** Fresh records, and a plan that holds them. */
async function planFresh(count: number): Promise<PlannedBatch> {
  const records = Array.from({ length: count }, () => createRecord())
  await insertRecords(env.DB, records)
  const limits = { maxAgeMs: 0, maxBytes: 1_000_000 }
  const plan = planBatch(records, limits, { nowMs: Number.MAX_SAFE_INTEGER, areAll: true })
  if (plan.outcome === 'wait') throw new Error('nothing was cut')
  return plan.batch
}

const newest = async () => (await store.listBatches(1))[0]

describe('insertPlanned', () => {
  it('writes batch and records together, in the order of the leaves, past 100 parameters', async () => {
    const plan = await planFresh(150)
    expect(await store.insertPlanned(plan, 5)).toBe(true)
    const batch = await newest()
    expect(batch).toMatchObject({ state: 'planned', leafCount: 150, plannedAtMs: 5 })
    const records = await store.listRecords(batch!.id)
    expect(records.map(({ requestId }) => requestId)).toEqual(
      plan.leaves.map((leaf) => leaf.requestId),
    )
    expect(await store.listLeafHashes(batch!.id)).toEqual(plan.leaves.map((leaf) => leaf.hash))
    expect(await store.listUnanchored(10)).toEqual([])
  })

  it('does it once, however often it is told to', async () => {
    const plan = await planFresh(2)
    const results = await Promise.all([1, 2, 3].map((nowMs) => store.insertPlanned(plan, nowMs)))
    expect(results.filter(Boolean)).toHaveLength(1)
    const [last, before] = await store.listBatches(2)
    expect(last?.payloadHash).toBe(plan.payloadHash)
    expect(before?.payloadHash).not.toBe(plan.payloadHash)
  })

  it('lets one of two planners win where their records overlap, and gives ids without gaps', async () => {
    const [first, second] = [await planFresh(2), await planFresh(2)]
    const overlapping = { ...second, leaves: [...second.leaves, first.leaves[0]!] }
    const idBefore = (await newest())!.id
    expect(await store.insertPlanned(first, 1)).toBe(true)
    expect(await store.insertPlanned(overlapping, 1)).toBe(false)
    expect((await store.findRecord(second.leaves[0]!.requestId))?.batch).toBeNull()
    expect(await store.insertPlanned(second, 1)).toBe(true)
    expect((await newest())?.id).toBe(idBefore + 2)
  })
})

describe('a batch', () => {
  it('moves from state to state once each, and never back but by a reorg', async () => {
    await store.insertPlanned(await planFresh(1), 1)
    const { id } = (await newest())!
    await store.recordError(id, 'the archive is down')
    expect(await store.markPosted(id, '0x03', 2)).toBe(false)
    expect(await store.markArchived(id, 2)).toBe(true)
    expect((await newest())?.lastError).toBeNull()
    expect(await store.markArchived(id, 3)).toBe(false)
    expect(await store.markPosted(id, '0x03', 3)).toBe(true)
    expect(await store.markSubmitted(id, HASH, 4)).toBe(true)
    expect(await store.markConfirmed(id, PLACE, 5)).toBe(true)
    expect(await store.markSubmitted(id, HASH, 6)).toBe(false)
    expect(await store.markFinal(id, 7)).toBe(true)
    expect(await store.markConfirmed(id, PLACE, 8)).toBe(false)
    expect(await newest()).toMatchObject({ ...PLACE, state: 'final', updatedAtMs: 7 })

    expect(await store.readLastAnchoredId()).toBe(id)
    expect(await store.reopenAbove(id - 1, 9)).toBe(1)
    expect(await newest()).toMatchObject({ state: 'submitted', txHash: HASH, contract: null })
  })

  it('keeps the age of its state when an error is recorded', async () => {
    await store.insertPlanned(await planFresh(1), 1)
    const { id } = (await newest())!
    await store.recordError(id, 'the archive is down')
    expect(await newest()).toMatchObject({ updatedAtMs: 1, lastError: 'the archive is down' })
  })
})
