import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, expect, test } from 'vitest'
import { IDEMPOTENCY_KEPT_MS, type KeptAnswer } from '../../../worker/access/idempotency.ts'
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

const claim = { key: 'order-1', fingerprint: 'f'.repeat(64) }
const answer: KeptAnswer = { contentType: 'application/json', body: new Uint8Array([1, 2, 3]) }

const admitAgain = (account: TestAccount, changes: object = {}) =>
  account.stub().admit(composeAdmit(account.key, { idempotency: claim, ...changes }))

test('of many at once with one key a single request runs, and its answer is given again', async () => {
  const account = await createTestAccount()
  const requests = Array.from({ length: 16 }, () =>
    composeAdmit(account.key, { idempotency: claim }),
  )
  const results = await Promise.all(requests.map((request) => account.stub().admit(request)))
  const outcomes = results.map((result) => result.outcome)
  expect(outcomes.filter((outcome) => outcome === 'admitted')).toHaveLength(1)
  expect(outcomes.filter((outcome) => outcome === 'in_flight')).toHaveLength(15)

  const { requestId } = requests[outcomes.indexOf('admitted')]!
  await account.stub().settle({ ...composeSettlement(requestId), answer })
  await account.evict()
  expect(await admitAgain(account)).toEqual({ outcome: 'replay', answer })
  expect((await account.stub().describeAccount())?.budget).toMatchObject({
    spentMicroUsd: 50,
    reservedMicroUsd: 0,
  })
})

test('an admission that is delivered twice is no second request', async () => {
  const account = await createTestAccount()
  const request = composeAdmit(account.key, { idempotency: claim })
  await account.stub().admit(request)
  expect((await account.stub().admit(request)).outcome).toBe('admitted')
})

test('another body is a conflict, while the first runs and after', async () => {
  const account = await createTestAccount()
  const other = { idempotency: { ...claim, fingerprint: 'e'.repeat(64) } }
  const requestId = await admitOne(account, { idempotency: claim })
  const conflict = { outcome: 'idempotency_conflict', why: 'other_request' }
  expect(await admitAgain(account, other)).toEqual(conflict)
  await account.stub().settle({ ...composeSettlement(requestId), answer })
  expect(await admitAgain(account, other)).toEqual(conflict)
})

test('what was billed without a whole answer is not run again', async () => {
  const account = await createTestAccount()
  const requestId = await admitOne(account, { idempotency: claim })
  await account.stub().settle(composeSettlement(requestId, { outcome: 'upstream_failed' }))
  expect(await admitAgain(account)).toEqual({
    outcome: 'idempotency_conflict',
    why: 'answer_not_kept',
  })
})

test('what cost nothing may be tried again, and so may what was refused', async () => {
  const account = await createTestAccount({ maxConcurrentRequests: 1 })
  const running = await admitOne(account)
  expect((await admitAgain(account)).outcome).toBe('too_many_at_once')
  await account.stub().settle(composeSettlement(running))
  const requestId = await admitOne(account, { idempotency: claim })
  const failed = { outcome: 'upstream_failed', promptTokens: 0, completionTokens: 0 } as const
  await account.stub().settle(composeSettlement(requestId, failed))
  expect((await admitAgain(account)).outcome).toBe('admitted')
})

test('a key is remembered for a day, and for the API key that sent it alone', async () => {
  const account = await createTestAccount()
  const requestId = await admitOne(account, { idempotency: claim })
  await account.stub().settle({ ...composeSettlement(requestId), answer })
  const other = await account.addKey()
  const strange = composeAdmit(other, { idempotency: claim })
  expect((await account.stub().admit(strange)).outcome).toBe('admitted')
  await account.stub().settle(composeSettlement(strange.requestId))

  passTime(IDEMPOTENCY_KEPT_MS - 1)
  await account.runAlarm()
  expect((await admitAgain(account)).outcome).toBe('replay')
  passTime(1)
  expect((await admitAgain(account)).outcome).toBe('admitted')
})
