import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeBatchPayload, encodeBatchPayload } from '../../protocol/batch-payload.ts'
import { createBatchEntry, planBatch } from '../../worker/proofs/plan-batch.ts'
import { createRecord } from '../support/usage-records.ts'

const records = Array.from({ length: 12 }, (_, index) =>
  // Two of each time: the request id decides.
  createRecord({ completedAtMs: 1_000 + Math.floor(index / 2) }),
)
const ordered = records.toSorted(
  (a, b) => a.completedAtMs - b.completedAtMs || (a.requestId < b.requestId ? -1 : 1),
)
const late = { nowMs: 2_000, areAll: true }

describe('planBatch', () => {
  it('cuts the same batch from the same records, in whatever order they come', () => {
    const limits = { maxAgeMs: 0, maxBytes: 100_000 }
    const expected = planBatch(records, limits, late)
    expect(expected).toMatchObject({
      outcome: 'cut',
      batch: { leaves: ordered.map(({ requestId }) => ({ requestId })) },
    })
    fc.assert(
      fc.property(fc.shuffledSubarray(records, { minLength: records.length }), (shuffled) => {
        expect(planBatch(shuffled, limits, late)).toEqual(expected)
      }),
      { seed: 1, numRuns: 10 },
    )
  })

  it('takes the oldest that fit, at least one, and as many as it can', () => {
    const sizes = ordered.map(
      (_, index) => encodeBatchPayload(ordered.slice(0, index + 1).map(createBatchEntry)).length,
    )
    fc.assert(
      fc.property(fc.nat({ max: sizes.at(-1)! + 10 }), (maxBytes) => {
        const plan = planBatch(records, { maxAgeMs: 0, maxBytes }, late)
        if (plan.outcome === 'wait') throw new Error('nothing was cut')
        const count = Math.max(1, sizes.filter((size) => size <= maxBytes).length)
        expect(plan.batch.leaves).toHaveLength(count)
        expect(plan.batch.payloadBytes).toBe(sizes[count - 1])
      }),
      { seed: 2, numRuns: 30 },
    )
  })

  it('waits until the batch is full or its oldest record is old enough', () => {
    const limits = { maxAgeMs: 500, maxBytes: 100_000 }
    const planAt = (nowMs: number, areAll = true) => planBatch(records, limits, { nowMs, areAll })
    expect(planAt(1_499).outcome).toBe('wait')
    expect(planAt(1_500).outcome).toBe('cut')
    expect(planAt(1_000, false).outcome).toBe('cut')
    const small = planBatch(records, { ...limits, maxBytes: 1_000 }, { nowMs: 1_000, areAll: true })
    expect(small.outcome).toBe('cut')
    expect(planBatch([], limits, late).outcome).toBe('wait')
  })

  it('makes a payload that holds the leaves at their places', () => {
    const entries = ordered.map(createBatchEntry)
    expect(decodeBatchPayload(encodeBatchPayload(entries))).toEqual({ outcome: 'decoded', entries })
  })
})
