import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import * as fc from 'fast-check'
import { afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { ZERO_DIGEST } from '../../../protocol/digest.ts'
import { toHex } from '../../../worker/hex.ts'
import { endOfMonth, monthOf, startOfMonth } from '../../../worker/ledger/month.ts'
import { composeStatementCsv, sumLines } from '../../../worker/ledger/statement.ts'
import { readStatement } from '../../../worker/ledger/statement-store.ts'
import { findUsage } from '../../../worker/ledger/usage-store.ts'
import {
  admitOne,
  answerReports,
  composeAdmit,
  composeSettlement,
  createTestAccount,
  passTime,
  stopClock,
  type TestAccount,
  takeLedgerDown,
} from '../support/account-fixture.ts'

fc.configureGlobal({ seed: 1 })

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})
afterEach(() => {
  vi.restoreAllMocks()
})

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

async function read(account: TestAccount, month: string) {
  const reading = await account.stub().readMonth(month)
  if (reading.outcome === 'none') return null
  return readStatement(env.DB, account.accountId, { reading, nowMs: Date.now() })
}

const step = fc.oneof(
  fc.record({
    do: fc.constant('admit' as const),
    keyIndex: fc.nat({ max: 1 }),
    model: fc.constantFrom('smol', 'smol:poet'),
    priceVersion: fc.integer({ min: 1, max: 2 }),
  }),
  fc.record({
    do: fc.constant('settle' as const),
    of: fc.nat(),
    completionTokens: fc.nat({ max: 30 }),
    hasAdapter: fc.boolean(),
  }),
  fc.record({
    do: fc.constant('pass time' as const),
    hours: fc.oneof(fc.integer({ min: 1, max: 48 }), fc.integer({ min: 300, max: 900 })),
  }),
  // To the last and the first millisecond of a month, where a wrong time zone shows.
  fc.record({ do: fc.constant('go to the month’s end' as const), isOver: fc.boolean() }),
  fc.record({
    do: fc.constant('put the clock back' as const),
    hours: fc.integer({ max: 72, min: 1 }),
  }),
  fc.record({
    do: fc.constantFrom(
      'flush' as const,
      'read' as const,
      'D1 goes' as const,
      'D1 comes' as const,
      'evict' as const,
    ),
  }),
)

test(
  'statements add up to the records and to what was settled; a closed one never changes',
  () =>
    fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 60 }), async (plan) => {
        stopClock()
        answerReports(() => new Response(null, { status: 404 }))
        const account = await createTestAccount()
        const keys = [account.key, await account.addKey()]
        const requestIds: string[] = []
        const closedAs = new Map<string, string>()
        let bringLedgerUp: (() => Promise<void>) | null = null
        let latestMs = Date.now()

        async function readAll(): Promise<string[]> {
          const states: string[] = []
          for (let at = Date.UTC(2100, 0, 1); at <= latestMs; at = endOfMonth(monthOf(at))) {
            const month = monthOf(at)
            const statement = await read(account, month)
            if (statement === null) continue
            states.push(statement.closed === null ? 'open' : 'closed')
            const known = closedAs.get(month)
            const text = JSON.stringify([statement.lines, statement.closed])
            if (known !== undefined) expect(text).toBe(known)
            else if (statement.closed !== null) {
              closedAs.set(month, text)
              expect(sumLines(statement.lines)).toMatchObject({
                requestCount: statement.closed.requestCount,
                feeMicroUsd: statement.closed.feeMicroUsd,
              })
            }
          }
          return states
        }

        for (const each of plan) {
          switch (each.do) {
            case 'admit': {
              const price = { ...composeAdmit(keys[0]!).price, version: each.priceVersion }
              const request = composeAdmit(keys[each.keyIndex]!, { model: each.model, price })
              await account.stub().admit(request)
              requestIds.push(request.requestId)
              break
            }
            case 'settle': {
              const requestId = requestIds[each.of % requestIds.length]
              if (requestId === undefined) break
              const { completionTokens, hasAdapter } = each
              const adapterDigest = hasAdapter ? (`0x${'d'.repeat(64)}` as const) : ZERO_DIGEST
              await account
                .stub()
                .settle(composeSettlement(requestId, { completionTokens, adapterDigest }))
              break
            }
            case 'pass time':
              passTime(each.hours * HOUR_MS)
              break
            case 'go to the month’s end': {
              const endMs = endOfMonth(monthOf(Date.now()))
              vi.setSystemTime(each.isOver ? endMs : endMs - 1)
              break
            }
            case 'put the clock back':
              vi.setSystemTime(Math.max(Date.UTC(2100, 0, 1), Date.now() - each.hours * HOUR_MS))
              break
            case 'flush':
              await account.runAlarm()
              break
            case 'read':
              if (bringLedgerUp === null) await readAll()
              break
            case 'D1 goes':
              bringLedgerUp ??= await takeLedgerDown()
              break
            case 'D1 comes':
              await bringLedgerUp?.()
              bringLedgerUp = null
              break
            case 'evict':
              await account.evict()
          }
          latestMs = Math.max(latestMs, Date.now())
        }

        await bringLedgerUp?.()
        vi.setSystemTime(latestMs + 40 * DAY_MS)
        latestMs = Date.now()
        for (let count = 0; count < 60; count++) {
          const state = (await account.stub().describeAccount())!
          if (state.openReservationCount + state.outboxCount === 0) break
          passTime(HOUR_MS)
          await account.runAlarm()
        }
        passTime(40 * DAY_MS)
        latestMs = Date.now()
        expect((await readAll()).filter((state) => state === 'open').length).toBeLessThanOrEqual(1)
        await expectToAddUp(account)
      }),
      { numRuns: 12, endOnFailure: true },
    ),
  60_000,
)

async function expectToAddUp(account: TestAccount): Promise<void> {
  const { budget } = (await account.stub().describeAccount())!
  const months = await account.stub().listMonths()
  let sum = 0
  for (const settled of months) {
    const statement = (await read(account, settled.month))!
    const { sums } = await findUsage(env.DB, {
      accountId: account.accountId,
      fromMs: startOfMonth(settled.month),
      toMs: endOfMonth(settled.month),
      group: null,
      cursor: null,
      limit: 1,
    })
    expect(sums).toEqual([{ group: null, ...sumLines(statement.lines) }])
    expect(sumLines(statement.lines)).toMatchObject({
      requestCount: settled.requestCount,
      feeMicroUsd: settled.feeMicroUsd,
    })
    sum += settled.feeMicroUsd
  }
  expect(sum).toBe(budget.spentMicroUsd)
}

test('what is settled after its month was closed belongs to the month of the settlement', async () => {
  answerReports(() => new Response(null, { status: 503 }))
  const account = await createTestAccount()
  const late = await admitOne(account)
  await account.stub().settle(composeSettlement(await admitOne(account)))
  vi.setSystemTime(endOfMonth('2100-01'))
  expect((await read(account, '2100-01'))?.closed).toBeNull()
  await account.runAlarm()
  const closed = (await read(account, '2100-01'))!
  expect(closed.closed).toMatchObject({ requestCount: 1, feeMicroUsd: 50 })
  vi.setSystemTime(endOfMonth('2100-01') - 1)
  await account.stub().settle(composeSettlement(late))
  await account.runAlarm()
  expect(await read(account, '2100-01')).toEqual(closed)
  vi.setSystemTime(endOfMonth('2100-02'))
  expect((await read(account, '2100-02'))?.closed).toMatchObject({ feeMicroUsd: 50 })
})

test('the digest is that of the CSV, and a record that was changed since is not passed over', async () => {
  const account = await createTestAccount()
  await account.stub().settle(composeSettlement(await admitOne(account)))
  await account.runAlarm()
  vi.setSystemTime(endOfMonth('2100-01'))
  const statement = (await read(account, '2100-01'))!
  const csv = new TextEncoder().encode(composeStatementCsv(statement))
  const sum = toHex(await crypto.subtle.digest('SHA-256', csv))
  expect(statement.closed?.digest).toBe(`0x${sum}`)
  await env.DB.prepare('UPDATE usage SET fee_micro_usd = 49 WHERE account_id = ?')
    .bind(account.accountId)
    .run()
  await expect(read(account, '2100-01')).rejects.toThrow(/not those that were closed/)
})

test('there is no statement of a month before the account, nor of one to come', async () => {
  const account = await createTestAccount()
  expect(await read(account, '2099-12')).toBeNull()
  expect(await read(account, '2100-02')).toBeNull()
  expect(await read(account, '2100-01')).toMatchObject({ lines: [], closed: null })
})
