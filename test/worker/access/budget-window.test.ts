import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import fc from 'fast-check'
import { beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { endOfWindow, startOfWindow } from '../../../worker/access/budget-window.ts'
import {
  admitOne,
  composeAdmit,
  composeSettlement,
  createTestAccount,
  stopClock,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

const DAY_MS = 86_400_000
const at = (text: string) => Date.parse(text)

test('windows begin with the UTC day, Monday and the first of the month', () => {
  const nowMs = at('2028-02-29T23:59:59.999Z') // a Tuesday of a leap year
  const span = (window: 'day' | 'week' | 'month') =>
    [startOfWindow(window, nowMs), endOfWindow(window, nowMs)].map((ms) =>
      new Date(ms).toISOString().slice(0, 10),
    )
  expect(span('day')).toEqual(['2028-02-29', '2028-03-01'])
  expect(span('week')).toEqual(['2028-02-28', '2028-03-06'])
  expect(span('month')).toEqual(['2028-02-01', '2028-03-01'])
  fc.assert(
    fc.property(
      fc.constantFrom('day', 'week', 'month'),
      fc.integer({ min: 0, max: at('2200-01-01T00:00:00Z') }),
      (window, ms) => {
        const [startMs, endMs] = [startOfWindow(window, ms), endOfWindow(window, ms)]
        return (
          startMs <= ms &&
          ms < endMs &&
          startOfWindow(window, endMs - 1) === startMs &&
          startOfWindow(window, endMs) === endMs
        )
      },
    ),
    { seed: 7 },
  )
})

const ROLLING_MS = 10_000
const LIMITS = { day: 400, week: 900, month: 1_500, rolling: 250 } as const
const windowBudgets = Object.entries(LIMITS).map(([window, limitMicroUsd]) => ({
  window,
  limitMicroUsd,
  ...(window === 'rolling' && { durationMs: ROLLING_MS }),
}))

interface Spend {
  readonly atMs: number
  readonly feeMicroUsd: number
}

/** What a window holds, counted anew from all that was ever spent. */
function countSpent(window: keyof typeof LIMITS, spends: readonly Spend[], nowMs: number): number {
  const isIn = ({ atMs }: Spend) =>
    window === 'rolling'
      ? atMs > nowMs - ROLLING_MS
      : startOfWindow(window, atMs) === startOfWindow(window, nowMs)
  return spends.filter(isIn).reduce((sum, { feeMicroUsd }) => sum + feeMicroUsd, 0)
}

const steps = fc.array(
  fc.oneof(
    fc.record({ do: fc.constant('admit' as const), micro: fc.integer({ min: 0, max: 200 }) }),
    fc.record({ do: fc.constant('settle' as const), micro: fc.integer({ min: 0, max: 200 }) }),
    fc.record({
      do: fc.constant('wait' as const),
      // To the edges of windows, one millisecond to either side, and anywhere.
      to: fc.constantFrom('day', 'rolling', 'ms', 'any'),
      offsetMs: fc.integer({ min: -1, max: 1 }),
      anyMs: fc.integer({ min: 0, max: 3 * DAY_MS }),
    }),
  ),
  { minLength: 20, maxLength: 60 },
)

test('a request is admitted exactly when it fits every window, at every millisecond', async () => {
  await fc.assert(
    fc.asyncProperty(steps, fc.boolean(), async (plan, isOnKey) => {
      let nowMs = at('2101-01-30T21:00:00Z')
      vi.setSystemTime(nowMs)
      const settings = [{}, { windowBudgets }]
      const account = await createTestAccount(...(isOnKey ? settings : settings.reverse()))
      const open: { requestId: string; micro: number }[] = []
      const spends: Spend[] = []
      for (const step of plan) {
        if (step.do === 'wait') {
          const targets = {
            day: endOfWindow('day', nowMs),
            rolling: (spends.at(-1)?.atMs ?? nowMs) + ROLLING_MS,
            ms: nowMs + 1,
            any: nowMs + step.anyMs,
          }
          nowMs = Math.max(nowMs, targets[step.to as keyof typeof targets] + step.offsetMs)
          vi.setSystemTime(nowMs)
        } else if (step.do === 'settle') {
          const request = open.shift()
          if (request === undefined) continue
          const completionTokens = Math.floor(Math.min(step.micro, request.micro) / 2)
          const counts = { promptTokens: 0, completionTokens }
          const settled = await account.stub().settle(composeSettlement(request.requestId, counts))
          if (settled.outcome !== 'settled') throw new Error(settled.outcome)
          spends.push({ atMs: nowMs, feeMicroUsd: settled.feeMicroUsd })
        } else {
          const request = composeAdmit(account.key, { worstCaseMicroUsd: step.micro })
          const reserved = open.reduce((sum, { micro }) => sum + micro, 0)
          const fits = Object.entries(LIMITS).every(
            ([window, limit]) =>
              countSpent(window as keyof typeof LIMITS, spends, nowMs) + reserved + step.micro <=
              limit,
          )
          const result = await account.stub().admit(request)
          expect(result.outcome).toBe(fits ? 'admitted' : 'over_budget')
          if (fits) open.push({ requestId: request.requestId, micro: step.micro })
        }
        for (const [window, limit] of Object.entries(LIMITS)) {
          const spent = countSpent(window as keyof typeof LIMITS, spends, nowMs)
          expect(spent).toBeLessThanOrEqual(limit)
        }
      }
      const { key, accountWindows } = await describe(account)
      const shown = isOnKey ? key.windows : accountWindows
      for (const { window, spentMicroUsd } of shown)
        expect([window, spentMicroUsd]).toEqual([window, countSpent(window, spends, nowMs)])
    }),
    { seed: 7, numRuns: 15 },
  )
}, 60_000)

async function describe(account: Awaited<ReturnType<typeof createTestAccount>>) {
  const described = await account.stub().describeKey(account.key.keyHash)
  if (described.outcome !== 'key') throw new Error(described.outcome)
  return described
}

test('a refusal says which budget it was and when to come back', async () => {
  vi.setSystemTime(at('2101-01-31T23:00:00Z'))
  const account = await createTestAccount(
    { windowBudgets: [{ window: 'month', limitMicroUsd: 120 }] },
    { windowBudgets: [{ window: 'rolling', limitMicroUsd: 1_000, durationMs: ROLLING_MS }] },
  )
  await account.stub().settle(composeSettlement(await admitOne(account)))
  const refused = await account.stub().admit(composeAdmit(account.key))
  expect(refused).toMatchObject({
    outcome: 'over_budget',
    scope: 'account',
    window: 'month',
    spentMicroUsd: 50,
    resetsAtMs: at('2101-02-01T00:00:00Z'),
  })
  // Room for 960 is there once the 50 have left; for 1,001 never.
  const ask = (worstCaseMicroUsd: number) =>
    account.stub().admit(composeAdmit(account.key, { worstCaseMicroUsd }))
  const scope = { outcome: 'over_budget', scope: 'key', window: 'rolling' }
  expect(await ask(960)).toMatchObject({ ...scope, resetsAtMs: Date.now() + ROLLING_MS })
  expect(await ask(1_001)).toMatchObject({ ...scope, resetsAtMs: null })
})

test('changing a limit keeps what its window has spent', async () => {
  const account = await createTestAccount({
    windowBudgets: [{ window: 'day', limitMicroUsd: 500 }],
  })
  await account.stub().settle(composeSettlement(await admitOne(account)))
  const { settings } = (await account.stub().describeAccount())!
  const changed = await account.stub().configure({
    ...settings,
    windowBudgets: [
      { window: 'day', limitMicroUsd: 60 },
      { window: 'week', limitMicroUsd: 60 },
    ],
  })
  if (changed.outcome !== 'configured') throw new Error(changed.outcome)
  expect(changed.account.windows.map((each) => [each.window, each.spentMicroUsd])).toEqual([
    ['day', 50],
    ['week', 0],
  ])
})
