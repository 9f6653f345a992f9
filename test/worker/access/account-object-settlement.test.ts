import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { checkSplit, SPLIT_RULES } from '../../../protocol/fee-split.ts'
import { commitAccount } from '../../../protocol/usage-leaf.ts'
import {
  admitOne,
  composeAdmit,
  composeSettlement,
  countRows,
  createTestAccount,
  findRow,
  passTime,
  stopClock,
  takeLedgerDown,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

describe('settlement', () => {
  it('writes the whole record, priced, split and committed to', async () => {
    const account = await createTestAccount()
    const requestId = await admitOne(account)
    passTime(1_500)
    const result = await account.stub().settle(
      composeSettlement(requestId, {
        cachedTokens: 11,
        adapterOwner: `0x${'4'.repeat(40)}`,
        contributors: [{ payee: `0x${'5'.repeat(40)}`, weightPpm: 1_000_000 }],
      }),
    )
    // 19 × 1 + 11 × 0.5 + 10 × 2, rounded up once.
    expect(result).toEqual({ outcome: 'settled', feeMicroUsd: 45 })
    await account.runAlarm()
    const row = await findRow(account, requestId)
    const description = await account.stub().describeAccount()
    expect(row).toMatchObject({
      requestId,
      accountId: account.accountId,
      keyId: account.key.keyId,
      endpoint: 'chat.completions',
      model: 'smol',
      backendId: 'local',
      outcome: 'completed',
      admittedAtMs: Date.now() - 1_500,
      completedAtMs: Date.now(),
      promptTokens: 30,
      cachedTokens: 11,
      completionTokens: 10,
      feeMicroUsd: 45,
      priceVersion: 3,
      splitVersion: 1,
      accountCommitment: commitAccount(account.accountId, description!.salt),
      contentSalt: expect.stringMatching(/^0x[0-9a-f]{64}$/),
      batchId: null,
    })
    expect(checkSplit(row!.credits, 45, SPLIT_RULES[1]!)).toEqual({ outcome: 'ok' })
    expect(row!.credits.map(({ payee }) => payee[2])).toEqual(['1', '2', '4', '5'])
    expect(description).toMatchObject({ budget: { spentMicroUsd: 45 }, outboxCount: 0 })
  })

  it('happens once: a second delivery changes nothing and gets the same fee', async () => {
    const account = await createTestAccount()
    const requestId = await admitOne(account)
    const results = await Promise.all(
      [30, 20, 10].map((promptTokens) =>
        account.stub().settle(composeSettlement(requestId, { promptTokens })),
      ),
    )
    expect(results.map(({ outcome }) => outcome).toSorted()).toEqual([
      'already_settled',
      'already_settled',
      'settled',
    ])
    passTime(24 * 3_600_000)
    await account.runAlarm()
    const late = await account.stub().settle(composeSettlement(requestId))
    expect(late).toEqual({ ...results[0], outcome: 'already_settled' })
    expect(await countRows(account)).toBe(1)
  })

  it('forgets a settlement after a day, and keeps its record', async () => {
    const account = await createTestAccount()
    const requestId = await admitOne(account)
    await account.stub().settle(composeSettlement(requestId))
    await account.runAlarm()
    passTime(25 * 3_600_000 + 1)
    await account.runAlarm()
    const late = await account.stub().settle(composeSettlement(requestId))
    expect(late).toEqual({ outcome: 'unknown_request' })
    expect(await countRows(account)).toBe(1)
  })

  it('never bills more than was reserved, and counts what it forwent', async () => {
    const account = await createTestAccount({ budgetMicroUsd: 100 })
    const requestId = await admitOne(account)
    const result = await account
      .stub()
      .settle(composeSettlement(requestId, { completionTokens: 1_000_000 }))
    expect(result).toEqual({ outcome: 'settled', feeMicroUsd: 100 })
    const description = await account.stub().describeAccount()
    expect(description).toMatchObject({
      budget: { spentMicroUsd: 100, reservedMicroUsd: 0 },
      counters: { clamped: 1 },
    })
  })

  it('bills nothing when the backend failed before its first token', async () => {
    const account = await createTestAccount()
    const requestId = await admitOne(account)
    const failed = composeSettlement(requestId, { outcome: 'upstream_failed', completionTokens: 0 })
    expect(await account.stub().settle(failed)).toEqual({ outcome: 'settled', feeMicroUsd: 0 })
    await account.runAlarm()
    expect(await findRow(account, requestId)).toMatchObject({ promptTokens: 0, feeMicroUsd: 0 })
  })

  it('knows nothing of a request that was never admitted', async () => {
    const account = await createTestAccount()
    const result = await account.stub().settle(composeSettlement('req_never'))
    expect(result).toEqual({ outcome: 'unknown_request' })
  })

  it('loses nothing when the object is evicted between reserve and settle', async () => {
    const account = await createTestAccount({ budgetMicroUsd: 150 })
    const requestId = await admitOne(account)
    await account.evict()
    expect((await account.stub().admit(composeAdmit(account.key))).outcome).toBe('over_budget')
    await account.evict()
    await account.stub().settle(composeSettlement(requestId))
    await account.evict()
    await account.runAlarm()
    expect(await findRow(account, requestId)).toMatchObject({ feeMicroUsd: 50 })
  })
})

describe('the outbox', () => {
  it('keeps what D1 did not take, serves on, and delivers each record once', async () => {
    const account = await createTestAccount()
    await account.runAlarm()
    const bringLedgerUp = await takeLedgerDown()
    for (let round = 0; round < 7; round++) {
      const requestId = await admitOne(account)
      await account.stub().settle(composeSettlement(requestId))
      passTime(60_000)
      expect(await account.runAlarm()).toBe(true)
    }
    expect(await account.stub().describeAccount()).toMatchObject({
      outboxCount: 7,
      lastAlarmError: expect.stringContaining('usage'),
    })
    await bringLedgerUp()
    passTime(60_000)
    expect(await account.runAlarm()).toBe(true)
    expect(await account.stub().describeAccount()).toMatchObject({
      outboxCount: 0,
      lastAlarmError: null,
    })
    expect(await countRows(account)).toBe(7)
  })

  it('empties itself soon after a settlement, without being asked', async () => {
    vi.useRealTimers()
    const account = await createTestAccount()
    const requestId = await admitOne(account)
    await account.stub().settle(composeSettlement(requestId))
    await vi.waitUntil(() => findRow(account, requestId), { timeout: 4_000, interval: 20 })
  })

  it('mirrors keys without their secrets, and their revocation', async () => {
    const account = await createTestAccount()
    await account.runAlarm()
    const find = () =>
      env.DB.prepare('SELECT * FROM api_keys WHERE id = ?').bind(account.key.keyId).first()
    expect(await find()).toEqual({
      id: account.key.keyId,
      account_id: account.accountId,
      name: 'test',
      start: account.key.key.slice(0, 24),
      created_at_ms: Date.now(),
      revoked_at_ms: null,
      member_id: null,
    })
    await account.stub().revokeKey(account.key.keyId)
    await account.runAlarm()
    expect(await find()).toMatchObject({ revoked_at_ms: Date.now() })
  })
})
