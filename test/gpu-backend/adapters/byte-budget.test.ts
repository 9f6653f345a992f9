import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ByteBudget } from '../../../gpu-backend/adapters/byte-budget.ts'

const BUDGET_BYTES = 100
const action = fc.record({
  kind: fc.constantFrom('use' as const, 'release' as const, 'remove' as const),
  key: fc.integer({ min: 0, max: 9 }),
})

test('never holds more than the budget, and lets go of nothing but the longest idle', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 200 }), (actions) => {
      const budget = new ByteBudget(BUDGET_BYTES)
      const sizeOf = (key: number) => 7 + 9 * key
      const uses = new Map<number, number>()
      const idle: number[] = []
      const usedBytes = () => [...uses.keys()].reduce((sum, key) => sum + sizeOf(key), 0)
      const forget = (key: number) => {
        uses.delete(key)
        if (idle.includes(key)) idle.splice(idle.indexOf(key), 1)
      }
      for (const { kind, key } of actions) {
        const count = uses.get(key)
        if (kind === 'use' && count === undefined) {
          const evicted = budget.admit(String(key), sizeOf(key))
          const busyBytes = usedBytes() - idle.reduce((sum, other) => sum + sizeOf(other), 0)
          expect(evicted === null).toBe(busyBytes + sizeOf(key) > BUDGET_BYTES)
          if (evicted === null) continue
          expect(evicted).toEqual(idle.slice(0, evicted.length).map(String))
          const last = evicted.at(-1)
          for (const victim of evicted) forget(Number(victim))
          uses.set(key, 1)
          if (last !== undefined) {
            expect(usedBytes() + sizeOf(Number(last))).toBeGreaterThan(BUDGET_BYTES)
          }
        } else if (kind === 'use' && count !== undefined) {
          budget.use(String(key))
          uses.set(key, count + 1)
          if (count === 0) idle.splice(idle.indexOf(key), 1)
        } else if (kind === 'release' && count) {
          budget.release(String(key))
          uses.set(key, count - 1)
          if (count === 1) idle.push(key)
        } else if (kind === 'remove' && count === 0) {
          budget.remove(String(key))
          forget(key)
        }
        expect(budget.usedBytes).toBe(usedBytes())
        expect(budget.usedBytes).toBeLessThanOrEqual(BUDGET_BYTES)
        expect(budget.count).toBe(uses.size)
      }
    }),
  )
})
