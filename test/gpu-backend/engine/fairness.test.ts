import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createFairness, type WaitingEntry } from '../../../gpu-backend/engine/fairness.ts'

interface Job extends WaitingEntry {
  readonly serial: number
  readonly tokenCount: number
}

const noShares = () => 0

/** A queue in front of a server that takes one job after another. */
function createQueue(maxPassedOverCount: number) {
  const fairness = createFairness({ maxPassedOverCount, burstTokens: 0 })
  const waiting: Job[] = []
  let serial = 0
  return {
    waiting,
    add(tenant: string, tokenCount: number) {
      fairness.enter(
        tenant,
        waiting.some((job) => job.tenant === tenant),
      )
      waiting.push({ tenant, tokenCount, enteredAt: fairness.admittedCount(), serial: serial++ })
    },
    serve(): Job | null {
      const job = fairness.pickNext(waiting, noShares)
      if (job === null) return null
      waiting.splice(waiting.indexOf(job), 1)
      fairness.noteAdmission(job.tenant)
      fairness.chargeInput(job.tenant, job.tokenCount)
      fairness.leave(job.tenant)
      return job
    },
  }
}

const tenants = ['a', 'b', 'c', 'd']
const add = fc.tuple(fc.constantFrom(...tenants), fc.integer({ min: 1, max: 500 }))
const actions = fc.array(fc.oneof(add, fc.constant('serve' as const)), { maxLength: 200 })

test('serves each tenant in the order of arrival and passes nobody over for long', () => {
  const maxPassedOverCount = 5
  fc.assert(
    fc.property(actions, (steps) => {
      const queue = createQueue(maxPassedOverCount)
      const servedSerials = new Map<string, number>()
      const passedOver = new Map<string, number>()
      for (const step of steps) {
        if (step !== 'serve') {
          queue.add(...step)
          continue
        }
        const waitingTenants = new Set(queue.waiting.map((job) => job.tenant))
        const job = queue.serve()
        expect(job === null).toBe(waitingTenants.size === 0)
        if (job === null) continue
        expect(job.serial).toBeGreaterThan(servedSerials.get(job.tenant) ?? -1)
        servedSerials.set(job.tenant, job.serial)
        passedOver.set(job.tenant, 0)
        waitingTenants.delete(job.tenant)
        for (const tenant of waitingTenants) {
          passedOver.set(tenant, (passedOver.get(tenant) ?? 0) + 1)
          expect(passedOver.get(tenant)).toBeLessThan(maxPassedOverCount + tenants.length)
        }
      }
    }),
    { numRuns: 300 },
  )
})

test('shares tokens, not requests, between a tenant with long ones and one with many short ones', () => {
  const queue = createQueue(1000)
  for (let index = 0; index < 300; index++) queue.add('short', 10)
  for (let index = 0; index < 30; index++) queue.add('long', 100)
  const served = { short: 0, long: 0 }
  for (let index = 0; index < 110; index++) {
    const { tenant, tokenCount } = queue.serve()!
    served[tenant as 'short' | 'long'] += tokenCount
  }
  expect(Math.abs(served.short - served.long)).toBeLessThanOrEqual(100)
})

test('saves nothing up for a tenant that asked for little, and counts an output token twice', () => {
  const fairness = createFairness({ maxPassedOverCount: 1000, burstTokens: 0 })
  const next = () =>
    fairness.pickNext(
      ['late', 'busy'].map((tenant) => ({ tenant, enteredAt: 0 })),
      noShares,
    )?.tenant
  fairness.enter('busy', false)
  fairness.chargeOutput('busy', 500)
  fairness.enter('late', false)
  expect(next()).toBe('late')
  fairness.chargeOutput('late', 3)
  expect(next()).toBe('busy')
  fairness.chargeInput('busy', 5)
  expect(next()).toBe('busy')
  fairness.chargeInput('busy', 2)
  expect(next()).toBe('late')
  fairness.chargeInput('busy', 100)
  fairness.enter('late', false)
  fairness.chargeInput('late', 1)
  expect(next()).toBe('busy')
})

test('lets a tenant that asked for little be ahead by its burst, and by no more', () => {
  const fairness = createFairness({ maxPassedOverCount: 1000, burstTokens: 100 })
  fairness.enter('busy', false)
  fairness.chargeInput('busy', 5000)
  fairness.enter('late', false)
  expect(fairness.counterOf('busy') - fairness.counterOf('late')).toBe(100)
})

test('of two tenants the one that has less of the engine goes first, whatever both were charged', () => {
  const fairness = createFairness({ maxPassedOverCount: 1000, burstTokens: 0 })
  fairness.enter('much', false)
  fairness.enter('little', true)
  fairness.chargeInput('little', 100)
  const waiting = ['much', 'little'].map((tenant) => ({ tenant, enteredAt: 0 }))
  const shareOf = (tenant: string) => (tenant === 'much' ? 0.5 : 0.25)
  expect(fairness.pickNext(waiting, shareOf)?.tenant).toBe('little')
  expect(fairness.pickNext(waiting, noShares)?.tenant).toBe('much')
})
