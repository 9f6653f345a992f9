import fc from 'fast-check'
import { expect, test } from 'vitest'
import { PagePool } from '../../../gpu-backend/engine/page-pool.ts'

const PAGE_COUNT = 6

const action = fc.record({
  kind: fc.constantFrom('take', 'label', 'release', 'forget', 'open'),
  pick: fc.nat(),
  key: fc.constantFrom('a', 'b', 'c', 'd'),
})

test('after whatever is taken, labelled, released and found, every page is free, held or kept, once', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 60 }), (actions) => {
      const pool = new PagePool(PAGE_COUNT)
      const held: number[] = []
      /** What each page holds, by its latest label. */
      const contents = new Map<number, string>()
      for (const { kind, pick, key } of actions) {
        const page = held[pick % Math.max(1, held.length)]
        if (kind === 'take') {
          const taken = pool.take()
          expect(taken === null).toBe(held.length === PAGE_COUNT)
          if (taken === null) continue
          expect(held).not.toContain(taken)
          contents.delete(taken)
          held.push(taken)
        } else if (kind === 'open') {
          const found = pool.find(key)
          if (found === null) continue
          expect(contents.get(found.page)).toBe(key)
          expect(found.isHeld).toBe(held.includes(found.page))
          if (found.isHeld) continue
          pool.adopt(found.page)
          held.push(found.page)
        } else if (page !== undefined) {
          // A page's content does not change while it is held.
          const content = contents.get(page) ?? key
          if (kind === 'label') pool.label(page, content)
          else held.splice(held.indexOf(page), 1)
          if (kind === 'release') pool.release(page, content)
          if (kind === 'forget') pool.release(page, null)
          else contents.set(page, content)
        }
        expect(pool.heldCount).toBe(held.length)
        expect(pool.availableCount).toBe(PAGE_COUNT - held.length)
        expect(pool.keptCount).toBeLessThanOrEqual(pool.availableCount)
      }
      while (pool.take() !== null);
      expect(pool.heldCount).toBe(PAGE_COUNT)
      for (const key of ['a', 'b', 'c', 'd']) expect(pool.find(key)?.isHeld ?? true).toBe(true)
    }),
    { numRuns: 500 },
  )
})

test('drops first what was released first, and never a beginning before what follows it', () => {
  const pool = new PagePool(5)
  const [a, b] = [pool.take()!, pool.take()!]
  pool.label(a, 'begin')
  const [copy, next] = [pool.take()!, pool.take()!]
  pool.release(a, 'begin')
  pool.release(b, 'other')
  // A second sequence that had a copy of the beginning: its release renews the first's page.
  pool.release(next, 'begin next')
  pool.release(copy, 'begin')
  expect(pool.keptCount).toBe(3)
  const dropped = Array.from({ length: 5 }, () => {
    pool.take()
    return ['begin', 'other', 'begin next'].filter((key) => pool.find(key) === null)
  })
  expect(dropped).toEqual([
    [],
    [],
    ['other'],
    ['other', 'begin next'],
    ['begin', 'other', 'begin next'],
  ])
})
