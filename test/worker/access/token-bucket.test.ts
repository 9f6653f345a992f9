import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  bucketResetMs,
  createBucket,
  MAX_LIMIT_PER_MINUTE,
  refillBucket,
  remainingInBucket,
  returnToBucket,
  takeFromBucket,
} from '../../../worker/access/token-bucket.ts'

fc.configureGlobal({ seed: 1 })

const limits = fc.integer({ min: 1, max: MAX_LIMIT_PER_MINUTE })

describe('token bucket', () => {
  it('never lets more through in any span than it held and what flowed in', () =>
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_000 }),
        fc.array(fc.record({ waitMs: fc.nat({ max: 5_000 }), count: fc.nat({ max: 50 }) }), {
          maxLength: 100,
        }),
        (limit, calls) => {
          let bucket = createBucket(limit, 0)
          let nowMs = 0
          let taken = 0
          for (const { waitMs, count } of calls) {
            nowMs += waitMs
            bucket = refillBucket(bucket, limit, nowMs)
            const take = takeFromBucket(bucket, limit, Math.min(count, limit))
            if (take.outcome === 'refused') continue
            bucket = take.bucket
            taken += Math.min(count, limit)
            expect(taken * 60_000).toBeLessThanOrEqual(limit * 60_000 + limit * nowMs)
          }
        },
      ),
    ))

  it('says exactly when a refused count will be there', () =>
    fc.assert(
      fc.property(limits, fc.nat(), fc.nat({ max: 1_000_000 }), (limit, spent, wanted) => {
        const before = takeFromBucket(createBucket(limit, 0), limit, spent % (limit + 1))
        if (before.outcome !== 'taken') throw new Error('A full bucket gives what it holds.')
        const take = takeFromBucket(before.bucket, limit, wanted)
        fc.pre(take.outcome === 'refused')
        const at = (nowMs: number) =>
          takeFromBucket(refillBucket(before.bucket, limit, nowMs), limit, wanted).outcome
        expect(at(take.retryAfterMs)).toBe('taken')
        expect(at(take.retryAfterMs - 1)).toBe('refused')
      }),
    ))

  it('fills to the brim and no further, however long it waits', () =>
    fc.assert(
      fc.property(limits, fc.maxSafeNat(), (limit, nowMs) => {
        const take = takeFromBucket(createBucket(limit, 0), limit, limit)
        if (take.outcome !== 'taken') throw new Error('A full bucket gives what it holds.')
        expect(remainingInBucket(take.bucket)).toBe(0)
        expect(bucketResetMs(take.bucket, limit)).toBe(60_000)
        const filled = refillBucket(take.bucket, limit, 60_000 + nowMs)
        expect(filled.level).toBe(createBucket(limit, 0).level)
        expect(bucketResetMs(filled, limit)).toBe(0)
        expect(returnToBucket(filled, limit, 5).level).toBe(filled.level)
      }),
    ))

  it('does not fill when the clock goes back, nor twice for one span', () => {
    const empty = { level: 0, updatedAtMs: 1_000 }
    const back = refillBucket(empty, 60, 0)
    expect(back).toEqual(empty)
    expect(refillBucket(back, 60, 2_000).level).toBe(60_000)
  })

  it('lets a count above its capacity through when it is full, and is in debt after it', () => {
    const take = takeFromBucket(createBucket(100, 0), 100, 250)
    if (take.outcome !== 'taken') throw new Error('A full bucket lets it through.')
    expect(remainingInBucket(take.bucket)).toBe(0)
    expect(takeFromBucket(take.bucket, 100, 0)).toEqual({
      outcome: 'refused',
      retryAfterMs: 90_000,
    })
    expect(takeFromBucket(take.bucket, 100, 250)).toEqual({
      outcome: 'refused',
      retryAfterMs: 150_000,
    })
  })
})
