import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Price, priceAt } from '../../../worker/access/pricing.ts'
import { createPriceBook } from '../../../worker/ledger/price-book.ts'
import {
  CLOCK_SPREAD_MS,
  composeTariff,
  MAX_PRICE_LIST_AGE_MS,
  PRICE_LEAD_MS,
  type PriceVersion,
} from '../../../worker/ledger/price-list.ts'

fc.configureGlobal({ seed: 1 })

const MINUTE_MS = 60_000
const SCOPE = { models: ['base:style', 'base'], backendId: 'near', configured: priceOf(1) }

function priceOf(version: number): Price {
  return {
    version,
    promptMicroUsdPerMillion: version,
    cachedMicroUsdPerMillion: version,
    completionMicroUsdPerMillion: version,
  }
}

/** The rule as the documentation words it, name by name. */
function findByTheRule(published: readonly PriceVersion[], atMs: number): number {
  for (const model of ['base:style', 'base', null]) {
    for (const backendId of ['near', null]) {
      const [found] = published
        .filter((each) => each.model === model && each.backendId === backendId)
        .filter((each) => each.effectiveAtMs <= atMs)
        .sort((a, b) => b.effectiveAtMs - a.effectiveAtMs || b.version - a.version)
      if (found) return found.version
    }
  }
  return SCOPE.configured.version
}

const minutes = (max: number) => fc.integer({ min: 0, max }).map((count) => count * MINUTE_MS)
const skewMs = fc.integer({ min: -CLOCK_SPREAD_MS / 2, max: CLOCK_SPREAD_MS / 2 })

const events = fc.array(
  fc.oneof(
    fc.record({
      do: fc.constant('publish' as const),
      afterMs: minutes(90),
      model: fc.constantFrom('base:style', 'base', null, 'other'),
      backendId: fc.constantFrom('near', null, 'far'),
      leadMs: minutes(60).map((ms) => PRICE_LEAD_MS + ms),
    }),
    fc.record({
      do: fc.constant('admit' as const),
      afterMs: minutes(20),
      isolate: fc.nat({ max: 2 }),
      /** Between the isolate's look at the list and the object's admission. */
      transitMs: minutes(1),
      isDatabaseUp: fc.boolean(),
    }),
  ),
  { minLength: 5, maxLength: 60 },
)

test('whatever is published when, an admission is priced by exactly the version in force by its own clock', () =>
  fc.assert(
    fc.asyncProperty(events, fc.tuple(skewMs, skewMs, skewMs, skewMs), async (plan, skews) => {
      let timeMs = 1_000 * PRICE_LEAD_MS
      let isDatabaseUp = true
      const published: PriceVersion[] = []
      const isolates = skews.slice(1).map((skew) => ({
        now: () => timeMs + skew,
        book: createPriceBook({
          fetchList: async () => {
            if (!isDatabaseUp) throw new Error('D1 is down.')
            return Map.groupBy<string | null, PriceVersion>(published, ({ model }) => model)
          },
          log: () => {},
          now: () => timeMs + skew,
        }),
      }))
      for (const event of plan) {
        timeMs += event.afterMs
        if (event.do === 'publish') {
          const { model, backendId, leadMs } = event
          const version = 1_000_001 + published.length
          const effectiveAtMs = timeMs + skews[0] + leadMs
          const at = { effectiveAtMs, createdAtMs: timeMs + skews[0] }
          published.push({ ...priceOf(version), model, backendId, ...at })
          continue
        }
        isDatabaseUp = event.isDatabaseUp
        const { book, now } = isolates[event.isolate]!
        const background: Promise<unknown>[] = []
        const list = await book.read((work) => background.push(work)).catch(() => null)
        await Promise.all(background)
        if (list === null) {
          expect(isDatabaseUp).toBe(false)
          continue
        }
        const tariff = composeTariff(list, SCOPE, now())
        timeMs += event.transitMs
        const admittedAtMs = timeMs + skews[0]
        expect(priceAt(tariff, admittedAtMs).version).toBe(findByTheRule(published, admittedAtMs))
      }
    }),
    { numRuns: 300 },
  ))

test('a list too old to be sure of is not used: nothing is served without prices', async () => {
  let timeMs = 0
  let isDatabaseUp = true
  const book = createPriceBook({
    fetchList: async () => {
      if (!isDatabaseUp) throw new Error('D1 is down.')
      return new Map()
    },
    log: () => {},
    now: () => timeMs,
  })
  const read = () => book.read((work) => void work)
  await read()
  isDatabaseUp = false
  timeMs += MAX_PRICE_LIST_AGE_MS
  await read()
  timeMs += 1
  await expect(read()).rejects.toMatchObject({ code: 'ledger_unavailable' })
  isDatabaseUp = true
  await read()
})
