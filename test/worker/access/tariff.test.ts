import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, expect, test } from 'vitest'
import {
  composeAdmit,
  composeSettlement,
  createTestAccount,
  findRow,
  passTime,
  stopClock,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))

const priceOf = (version: number) => ({
  version,
  promptMicroUsdPerMillion: version * 100_000,
  cachedMicroUsdPerMillion: 0,
  completionMicroUsdPerMillion: 0,
})

test('the version in force at admission by the object’s clock is billed, also after a change of backend', async () => {
  const atMs = stopClock() + 1
  const account = await createTestAccount()
  const tariff = { price: priceOf(7), priceChanges: [{ atMs, price: priceOf(8) }] }
  const elsewhere = { price: priceOf(3), priceChanges: [{ atMs, price: priceOf(4) }] }
  for (const [stays, moves] of [
    [7, 3],
    [8, 4],
  ] as const) {
    const requests = [composeAdmit(account.key, tariff), composeAdmit(account.key, tariff)]
    for (const request of requests) await account.stub().admit(request)
    passTime(1)
    const [stayed, moved] = requests.map(({ requestId }) => requestId) as [string, string]
    await account.stub().reroute(moved, { backendId: 'other', ...elsewhere })
    for (const requestId of [stayed, moved])
      await account.stub().settle(composeSettlement(requestId))
    await account.runAlarm()
    const record = { priceVersion: stays, feeMicroUsd: stays * 3 }
    expect(await findRow(account, stayed)).toMatchObject({ ...record, backendId: 'local' })
    const other = { priceVersion: moves, feeMicroUsd: moves * 3, backendId: 'other' }
    expect(await findRow(account, moved)).toMatchObject(other)
  }
})
