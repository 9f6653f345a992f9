import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { keySettingsSchema } from '../../../worker/access/account-settings.ts'
import { findUsage } from '../../../worker/ledger/usage-store.ts'
import {
  admitOne,
  composeAdmit,
  composeSettlement,
  createTestAccount,
  passTime,
  stopClock,
  type TestAccount,
  type TestKey,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

/** A member with two keys. */
async function createMember(account: TestAccount, settings: object = {}) {
  const memberId = await account.addMember(settings)
  const keys: readonly [TestKey, TestKey] = [
    await account.addKey({ memberId }),
    await account.addKey({ memberId }),
  ]
  return { memberId, keys }
}

const admit = (account: TestAccount, key: TestKey, changes: object = {}) =>
  account.stub().admit(composeAdmit(key, changes))

it('reserves and settles for key, member and account at the same time', async () => {
  const account = await createTestAccount()
  const { memberId, keys } = await createMember(account, { budgetMicroUsd: 250 })
  const first = composeAdmit(keys[0])
  expect((await account.stub().admit(first)).outcome).toBe('admitted')
  expect((await admit(account, keys[1])).outcome).toBe('admitted')
  const refusal = { outcome: 'over_budget', scope: 'member', window: 'total', resetsAtMs: null }
  const used = { limitMicroUsd: 250, spentMicroUsd: 0, reservedMicroUsd: 200, standsForMs: 0 }
  expect(await admit(account, keys[0])).toEqual({ ...refusal, ...used })
  expect((await admit(account, account.key)).outcome).toBe('admitted')

  await account.evict()
  await account.stub().settle(composeSettlement(first.requestId))
  expect(await account.stub().listMembers()).toMatchObject([
    { memberId, budget: { limitMicroUsd: 250, spentMicroUsd: 50, reservedMicroUsd: 100 } },
  ])
  expect((await account.stub().describeAccount())?.budget).toMatchObject({
    spentMicroUsd: 50,
    reservedMicroUsd: 200,
  })
  expect((await admit(account, keys[1])).outcome).toBe('admitted')
  expect((await admit(account, keys[1])).outcome).toBe('over_budget')
})

it('holds the windows and limits of a member over all their keys', async () => {
  const account = await createTestAccount()
  const { memberId, keys } = await createMember(account, {
    windowBudgets: [{ window: 'rolling', durationMs: 60_000, limitMicroUsd: 120 }],
    modelLimits: [{ model: 'other', requestsPerMinute: 1 }],
    maxConcurrentRequests: 2,
  })
  const ask = (key: TestKey, changes: object) =>
    admit(account, key, { worstCaseMicroUsd: 10, ...changes })
  const first = composeAdmit(keys[0], { model: 'other', worstCaseMicroUsd: 60 })
  expect((await account.stub().admit(first)).outcome).toBe('admitted')
  expect(await ask(keys[1], { model: 'other' })).toMatchObject({
    ...{ outcome: 'rate_limited', scope: 'member', model: 'other', what: 'requests', limit: 1 },
  })
  expect((await ask(keys[1], {})).outcome).toBe('admitted')
  const crowded = { outcome: 'too_many_at_once', scope: 'member', model: null, limit: 2 }
  expect(await ask(keys[0], {})).toEqual(crowded)
  await account.stub().settle(composeSettlement(first.requestId))

  const refused = await ask(keys[1], { worstCaseMicroUsd: 61 })
  const resetsAtMs = Date.now() + 60_000
  expect(refused).toMatchObject({ scope: 'member', window: 'rolling', resetsAtMs })
  passTime(60_000)
  expect((await ask(keys[1], { worstCaseMicroUsd: 61 })).outcome).toBe('admitted')

  const raised = await account.stub().updateMember(memberId, { maxConcurrentRequests: 3 })
  expect(raised).toMatchObject({
    outcome: 'updated',
    member: {
      settings: { name: 'ada', maxConcurrentRequests: 3, modelLimits: [{ model: 'other' }] },
      windows: [{ window: 'rolling', limitMicroUsd: 120 }],
    },
  })
  expect((await ask(keys[0], {})).outcome).toBe('admitted')
})

it('refuses the keys of a removed member, and settles what they had begun', async () => {
  const account = await createTestAccount()
  const { memberId, keys } = await createMember(account)
  const running = composeAdmit(keys[0])
  await account.stub().admit(running)
  expect(await account.stub().removeMember(memberId)).toBe(true)
  for (const key of keys) {
    expect(await admit(account, key)).toEqual({ outcome: 'unknown_key' })
    expect(await account.stub().describeKey(key.keyHash)).toEqual({ outcome: 'unknown_key' })
  }
  await admitOne(account)
  const settled = await account.stub().settle(composeSettlement(running.requestId))
  expect(settled).toEqual({ outcome: 'settled', feeMicroUsd: 50 })
  expect(await account.stub().listMembers()).toMatchObject([
    { removedAtMs: Date.now(), budget: { spentMicroUsd: 50, reservedMicroUsd: 0 } },
  ])

  const settings = keySettingsSchema.parse({ name: 'late', memberId })
  expect(await account.stub().createKey(settings)).toEqual({ outcome: 'unknown_member' })
  const unknown = keySettingsSchema.parse({ name: 'late', memberId: 'mem_none' })
  expect(await account.stub().createKey(unknown)).toEqual({ outcome: 'unknown_member' })
  expect(await account.stub().updateMember(memberId, { name: 'late' })).toEqual({
    outcome: 'unknown_member',
  })
  expect(await account.stub().removeMember(memberId)).toBe(true)
  expect(await account.stub().removeMember('mem_none')).toBe(false)
})

it('says of each record whose key it was', async () => {
  const account = await createTestAccount()
  const { memberId, keys } = await createMember(account)
  for (const key of [...keys, account.key]) {
    const request = composeAdmit(key)
    await account.stub().admit(request)
    await account.stub().settle(composeSettlement(request.requestId))
  }
  await account.runAlarm()
  const query = { fromMs: 0, toMs: Number.MAX_SAFE_INTEGER, cursor: null, limit: 10 }
  const { records, sums } = await findUsage(env.DB, {
    ...query,
    accountId: account.accountId,
    group: 'member',
  })
  expect(sums).toMatchObject([
    { group: null, requestCount: 1, feeMicroUsd: 50 },
    { group: memberId, requestCount: 2, feeMicroUsd: 100 },
  ])
  const owners = Map.groupBy(records, (record) => record.memberId)
  expect([owners.get(memberId)?.length, owners.get(null)?.length]).toEqual([2, 1])
})
