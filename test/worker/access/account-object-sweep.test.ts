import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  admitOne,
  answerReports,
  composeReport,
  composeSettlement,
  createTestAccount,
  findRow,
  passTime,
  stopClock,
  type TestAccount,
  TTL_MS,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})
afterEach(() => {
  vi.restoreAllMocks()
})

describe('the sweep', () => {
  async function abandonOne(account: TestAccount, changes: object = {}): Promise<string> {
    const requestId = await admitOne(account, changes)
    passTime(TTL_MS)
    return requestId
  }

  const sweep = async (account: TestAccount) => {
    await account.runAlarm()
    await account.runAlarm()
    return await account.stub().describeAccount()
  }

  it('waits while the backend works, then bills what it reports', async () => {
    const account = await createTestAccount()
    const requestId = await abandonOne(account)
    answerReports((id) => Response.json(composeReport(id, 'running', 4)))
    expect(await sweep(account)).toMatchObject({ openReservationCount: 1 })
    passTime(TTL_MS)
    answerReports((id) => Response.json(composeReport(id, 'cancelled', 7)))
    expect(await sweep(account)).toMatchObject({
      openReservationCount: 0,
      counters: { swept: 1, released: 0 },
    })
    expect(await findRow(account, requestId)).toMatchObject({
      outcome: 'swept',
      promptTokens: 30,
      completionTokens: 7,
      feeMicroUsd: 44,
      adapterDigest: `0x${'d'.repeat(64)}`,
      promptHash: `0x${'b'.repeat(64)}`,
    })
  })

  it('asks the backend that had the request, with its token', async () => {
    const account = await createTestAccount()
    const requestId = await abandonOne(account)
    const fetchSpy = vi
      .spyOn(globalThis, 'fetch')
      .mockImplementation(async () => new Response(null, { status: 404 }))
    await sweep(account)
    expect(fetchSpy).toHaveBeenCalledExactlyOnceWith(
      `http://127.0.0.1:9/tallygate/requests/${requestId}`,
      expect.objectContaining({ headers: { authorization: 'Bearer backend-token' } }),
    )
  })

  it.each<[string, object, () => Response]>([
    ['the backend never saw the request', {}, () => new Response(null, { status: 404 })],
    ['the backend is not configured any more', { backendId: 'gone' }, () => Response.error()],
  ])('releases with zero tokens when %s', async (_, changes, answer) => {
    const account = await createTestAccount()
    const requestId = await abandonOne(account, changes)
    answerReports(answer)
    expect(await sweep(account)).toMatchObject({
      openReservationCount: 0,
      budget: { spentMicroUsd: 0 },
      counters: { swept: 0, released: 1 },
    })
    const row = await findRow(account, requestId)
    expect(row).toMatchObject({ outcome: 'swept', promptTokens: 0, feeMicroUsd: 0 })
  })

  it('owes a backend nothing that failed before its first token', async () => {
    const account = await createTestAccount()
    const requestId = await abandonOne(account)
    answerReports((id) => Response.json(composeReport(id, 'failed', 0)))
    await sweep(account)
    expect(await findRow(account, requestId)).toMatchObject({ promptTokens: 0, feeMicroUsd: 0 })
  })

  it.each<[string, (requestId: string) => Response | Promise<Response>]>([
    ['is out of reach', () => Promise.reject(new TypeError('connect ECONNREFUSED'))],
    ['answers 500', () => new Response('oops', { status: 500 })],
    ['answers with something else', () => Response.json({ hello: 'world' })],
    ['speaks of another request', () => Response.json(composeReport('req_other', 'completed', 1))],
    ['counts absurdly', (id) => Response.json(composeReport(id, 'completed', 2 ** 40))],
  ])('asks ten terms long when the backend %s, then releases', async (_, answer) => {
    const account = await createTestAccount()
    await abandonOne(account)
    answerReports(answer)
    for (let term = 1; term < 10; term++) {
      expect(await sweep(account)).toMatchObject({ openReservationCount: 1 })
      passTime(TTL_MS)
    }
    expect(await sweep(account)).toMatchObject({
      openReservationCount: 0,
      counters: { released: 1 },
    })
  })

  it('leaves a reservation alone whose owner renews it', async () => {
    const account = await createTestAccount()
    const requestId = await admitOne(account)
    passTime(TTL_MS - 1)
    expect(await account.stub().renew(requestId)).toBe(true)
    passTime(TTL_MS - 1)
    answerReports(() => new Response(null, { status: 404 }))
    await account.runAlarm()
    const result = await account.stub().settle(composeSettlement(requestId))
    expect(result).toEqual({ outcome: 'settled', feeMicroUsd: 50 })
    expect(await account.stub().renew(requestId)).toBe(false)
  })

  it('lets the owner win who settles while the backend is asked', async () => {
    const account = await createTestAccount()
    const requestId = await abandonOne(account)
    answerReports(async (id) => {
      await account.stub().settle(composeSettlement(requestId))
      return Response.json(composeReport(id, 'completed', 1))
    })
    expect(await sweep(account)).toMatchObject({
      budget: { spentMicroUsd: 50 },
      counters: { swept: 0 },
    })
    expect(await findRow(account, requestId)).toMatchObject({ outcome: 'completed' })
  })

  it('gets through more reservations than it asks for at once', async () => {
    const account = await createTestAccount()
    for (let index = 0; index < 20; index++) await admitOne(account)
    passTime(TTL_MS)
    answerReports((id) => Response.json(composeReport(id, 'completed', 1)))
    let alarmCount = 0
    while ((await account.stub().describeAccount())!.openReservationCount > 0) {
      expect(await account.runAlarm()).toBe(true)
      expect(++alarmCount).toBeLessThan(10)
    }
  })
})
