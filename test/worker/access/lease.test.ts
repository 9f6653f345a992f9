import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  hearReport,
  heldByLease,
  type LeaseReport,
  NEW_LEASE,
  planSlice,
} from '../../../worker/access/lease.ts'

fc.configureGlobal({ seed: 1 })

type Step =
  | { readonly do: 'ask'; readonly neededMicroUsd: number }
  | { readonly do: 'settle'; readonly microUsd: number }
  /** An old message comes again, or for the first time. */
  | { readonly do: 'deliver'; readonly of: number }

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof<fc.Arbitrary<Step>[]>(
    fc.record({ do: fc.constant('ask'), neededMicroUsd: fc.nat({ max: 50 }) }),
    fc.record({ do: fc.constant('settle'), microUsd: fc.nat({ max: 50 }) }),
    fc.record({ do: fc.constant('deliver'), of: fc.nat() }),
  ),
  { maxLength: 60 },
)

const LIMIT_MICRO_USD = 1_000

test('whatever is lost, late or repeated, what is spent and held never exceeds the budget, and nothing is lost', async () => {
  await fc.assert(
    fc.property(steps, fc.integer({ min: 1, max: 16 }), (taken, shards) => {
      let granted = NEW_LEASE
      let spentMicroUsd = 0
      const own = { leasedMicroUsd: 0, settledMicroUsd: 0, returnedMicroUsd: 0, number: 0 }
      const sent: { readonly report: LeaseReport; readonly neededMicroUsd: number }[] = []
      const send = (neededMicroUsd: number) => {
        own.returnedMicroUsd += heldByLease(own)
        own.number += 1
        const message = { report: { keyId: 'key', ...own }, neededMicroUsd }
        sent.push(message)
        return message
      }
      const deliver = ({ report, neededMicroUsd }: (typeof sent)[number]) => {
        const heard = hearReport(granted, report)
        granted = heard.lease
        spentMicroUsd += heard.spentMicroUsd
        const roomMicroUsd = LIMIT_MICRO_USD - spentMicroUsd - heldByLease(granted)
        if (heard.isNewest && neededMicroUsd > 0 && neededMicroUsd <= roomMicroUsd) {
          const slice = planSlice(neededMicroUsd, { roomMicroUsd, shards })
          expect(slice).toBeGreaterThanOrEqual(neededMicroUsd)
          granted = { ...granted, leasedMicroUsd: granted.leasedMicroUsd + slice }
        }
        expect(spentMicroUsd + heldByLease(granted)).toBeLessThanOrEqual(LIMIT_MICRO_USD)
        expect(own.settledMicroUsd).toBeLessThanOrEqual(spentMicroUsd + heldByLease(granted))
      }
      for (const step of taken) {
        const { [step.do === 'deliver' ? step.of % (sent.length || 1) : 0]: old } = sent
        if (step.do === 'ask') {
          const message = send(step.neededMicroUsd)
          if (step.neededMicroUsd % 3 === 0) continue // lost
          deliver(message)
          if (step.neededMicroUsd % 3 === 1) own.leasedMicroUsd = granted.leasedMicroUsd
        } else if (step.do === 'settle')
          own.settledMicroUsd += Math.min(step.microUsd, heldByLease(own))
        else if (old !== undefined) deliver(old)
      }
      // Two messages that arrive: one to learn what was leased, one to give it back.
      for (let count = 0; count < 2; count++) {
        deliver(send(0))
        own.leasedMicroUsd = granted.leasedMicroUsd
      }
      for (const message of sent) deliver(message)
      expect(spentMicroUsd).toBe(own.settledMicroUsd)
      expect(heldByLease(granted)).toBe(0)
    }),
  )
})
