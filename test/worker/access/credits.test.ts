import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import {
  admitOne,
  composeAdmit,
  composeSettlement,
  createTestAccount,
  passTime,
  stopClock,
  type TestAccount,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

const HOUR_MS = 3_600_000

function grant(account: TestAccount, creditId: string, amountMicroUsd: number, hours?: number) {
  const expiresAtMs = hours === undefined ? null : Date.now() + hours * HOUR_MS
  return account.stub().grantCredit({ creditId, amountMicroUsd, expiresAtMs, reason: 'test' })
}

async function readLeft(account: TestAccount): Promise<Record<string, number>> {
  const credits = await account.stub().listCredits()
  return Object.fromEntries(credits.map((each) => [each.creditId, each.leftMicroUsd]))
}

const settleOne = async (account: TestAccount) =>
  account.stub().settle(composeSettlement(await admitOne(account)))

test('in advance: exactly what the balance covers runs, however many ask at once', async () => {
  const account = await createTestAccount({ prepaid: true })
  const admit = () => account.stub().admit(composeAdmit(account.key))
  expect(await admit()).toEqual({
    outcome: 'over_balance',
    standsForMs: 60_000,
    balanceMicroUsd: 0,
    reservedMicroUsd: 0,
  })
  await grant(account, 'first', 399)
  const results = await Promise.all(Array.from({ length: 20 }, admit))
  expect(results.filter(({ outcome }) => outcome === 'admitted')).toHaveLength(3)
  await account.evict()
  expect(await admit()).toMatchObject({ outcome: 'over_balance', reservedMicroUsd: 300 })
})

test('a credit is granted once, however often it is asked for; its id is no other’s', async () => {
  const account = await createTestAccount()
  const results = await Promise.all([1, 2, 3].map(() => grant(account, 'once', 70)))
  expect(results.map(({ outcome }) => outcome).sort()).toEqual(['granted', 'repeated', 'repeated'])
  expect(await grant(account, 'once', 71)).toEqual({ outcome: 'conflict' })
  expect(await grant(account, 'late', 1, 0)).toEqual({ outcome: 'expired' })
  expect(await readLeft(account)).toEqual({ once: 70 })
})

test('what expires first pays first, and nothing pays more than it has', async () => {
  const account = await createTestAccount()
  await grant(account, 'never', 100)
  await grant(account, 'in two hours', 30, 2)
  await grant(account, 'in an hour', 30, 1)
  await settleOne(account)
  expect(await readLeft(account)).toEqual({ 'in an hour': 0, 'in two hours': 10, never: 100 })
  passTime(2 * HOUR_MS)
  await settleOne(account)
  expect(await readLeft(account)).toEqual({ 'in an hour': 0, 'in two hours': 10, never: 50 })
  await settleOne(account)
  await settleOne(account)
  expect(await readLeft(account)).toMatchObject({ never: 0 })
  const [month] = await account.stub().listMonths()
  expect(month).toMatchObject({ feeMicroUsd: 200, creditedMicroUsd: 150 })
})

test('a credit that expires while a request runs still pays for it, and for no later one', async () => {
  const account = await createTestAccount({ prepaid: true })
  await grant(account, 'short', 100, 1)
  const requestId = await admitOne(account)
  passTime(HOUR_MS)
  expect((await account.stub().describeAccount())?.credit).toEqual({
    isPrepaid: true,
    balanceMicroUsd: 0,
    reservedMicroUsd: 100,
  })
  await grant(account, 'next', 150)
  expect(await account.stub().admit(composeAdmit(account.key))).toMatchObject({
    outcome: 'over_balance',
  })
  await account.stub().settle(composeSettlement(requestId))
  expect(await readLeft(account)).toEqual({ short: 50, next: 150 })
  await settleOne(account)
  expect(await readLeft(account)).toEqual({ short: 50, next: 100 })
})
