import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  admitOne,
  composeAdmit,
  composeSettlement,
  createTestAccount,
  passTime,
  stopClock,
} from '../support/account-fixture.ts'

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

describe('admission', () => {
  it('lets exactly as many of 64 concurrent requests in as the budget holds', async () => {
    const account = await createTestAccount({ budgetMicroUsd: 1_099 })
    const results = await Promise.all(
      Array.from({ length: 64 }, () => account.stub().admit(composeAdmit(account.key))),
    )
    expect(results.filter(({ outcome }) => outcome === 'admitted')).toHaveLength(10)
    expect(results.find(({ outcome }) => outcome !== 'admitted')).toEqual({
      outcome: 'over_budget',
      standsForMs: 0,
      scope: 'account',
      window: 'total',
      resetsAtMs: null,
      limitMicroUsd: 1_099,
      spentMicroUsd: 0,
      reservedMicroUsd: 1_000,
    })
  })

  it('holds a key to its own budget, whatever the account has left', async () => {
    const account = await createTestAccount({ budgetMicroUsd: 10_000 }, { budgetMicroUsd: 199 })
    const other = await account.addKey()
    await admitOne(account)
    const refused = await account.stub().admit(composeAdmit(account.key))
    expect(refused).toMatchObject({ outcome: 'over_budget', scope: 'key', limitMicroUsd: 199 })
    expect((await account.stub().admit(composeAdmit(other))).outcome).toBe('admitted')
  })

  it('gives back what a settled request did not use', async () => {
    const account = await createTestAccount({ budgetMicroUsd: 150 })
    const requestId = await admitOne(account)
    expect((await account.stub().admit(composeAdmit(account.key))).outcome).toBe('over_budget')
    await account.stub().settle(composeSettlement(requestId))
    await admitOne(account)
  })

  it('counts open reservations as concurrency, of the key and of the account', async () => {
    const account = await createTestAccount(
      { maxConcurrentRequests: 3 },
      { maxConcurrentRequests: 2 },
    )
    const other = await account.addKey()
    const first = await admitOne(account)
    await admitOne(account)
    const refused = await account.stub().admit(composeAdmit(account.key))
    const crowded = { outcome: 'too_many_at_once', model: null }
    expect(refused).toEqual({ ...crowded, scope: 'key', limit: 2 })
    await account.stub().admit(composeAdmit(other))
    const full = await account.stub().admit(composeAdmit(other))
    expect(full).toEqual({ ...crowded, scope: 'account', limit: 3 })
    await account.stub().settle(composeSettlement(first))
    expect((await account.stub().admit(composeAdmit(other))).outcome).toBe('admitted')
  })

  it('limits requests a minute and says when the next one fits', async () => {
    const account = await createTestAccount({ requestsPerMinute: 2 })
    await admitOne(account)
    await admitOne(account)
    const refused = await account.stub().admit(composeAdmit(account.key))
    expect(refused).toMatchObject({
      outcome: 'rate_limited',
      what: 'requests',
      retryAfterMs: 30_000,
      limits: { requestLimit: 2, requestsRemaining: 0, requestResetMs: 60_000 },
    })
    passTime(30_000)
    await admitOne(account)
  })

  it('limits tokens a minute by the worst case and puts unused ones back', async () => {
    const account = await createTestAccount({}, { tokensPerMinute: 100 })
    const requestId = await admitOne(account)
    const refused = await account.stub().admit(composeAdmit(account.key))
    expect(refused).toMatchObject({
      outcome: 'rate_limited',
      what: 'tokens',
      retryAfterMs: 12_000,
      limits: { tokenLimit: 100, tokensRemaining: 40 },
    })
    await account.stub().settle(composeSettlement(requestId))
    expect(await account.stub().describeKey(account.key.keyHash)).toMatchObject({
      limits: { tokensRemaining: 60 },
    })
  })

  it('is idempotent by request id', async () => {
    const account = await createTestAccount({ requestsPerMinute: 1, budgetMicroUsd: 100 })
    const request = composeAdmit(account.key)
    const [first, second] = [
      await account.stub().admit(request),
      await account.stub().admit(request),
    ]
    expect(second).toEqual(first)
    expect((await account.stub().describeAccount())?.openReservationCount).toBe(1)
  })

  it('refuses a revoked key on the very next call', async () => {
    const account = await createTestAccount()
    await admitOne(account)
    expect(await account.stub().revokeKey(account.key.keyId)).toBe(true)
    expect(await account.stub().admit(composeAdmit(account.key))).toEqual({
      outcome: 'unknown_key',
    })
    expect(await account.stub().describeKey(account.key.keyHash)).toEqual({
      outcome: 'unknown_key',
    })
    expect(await account.stub().revokeKey('key_none')).toBe(false)
  })

  it('refuses a key from the millisecond it expires', async () => {
    const account = await createTestAccount({}, { expiresAtMs: Date.now() + 1_000 })
    passTime(999)
    await admitOne(account)
    passTime(1)
    const refused = await account.stub().admit(composeAdmit(account.key))
    expect(refused).toEqual({ outcome: 'unknown_key' })
  })

  it('refuses models that the key may not use, and takes nothing for it', async () => {
    const account = await createTestAccount({ requestsPerMinute: 1 }, { models: ['smol'] })
    const refused = await account.stub().admit(composeAdmit(account.key, { model: 'smol:other' }))
    expect(refused).toEqual({ outcome: 'model_not_allowed', model: 'smol:other' })
    await admitOne(account)
  })

  it('knows no key of an account that was never made', async () => {
    const request = composeAdmit({ keyId: '', key: '', keyHash: 'a'.repeat(64) })
    const result = await env.ACCOUNT.getByName('acct_nobody').admit(request)
    expect(result).toEqual({ outcome: 'unknown_key' })
  })
})

describe('keys and limits', () => {
  it('are described to their holder', async () => {
    const account = await createTestAccount(
      { budgetMicroUsd: 1_000 },
      { budgetMicroUsd: 500, requestsPerMinute: 10, models: ['smol'] },
    )
    await admitOne(account)
    expect(await account.stub().describeKey(account.key.keyHash)).toEqual({
      outcome: 'key',
      accountWindows: [],
      accountModelLimits: [],
      member: null,
      credit: { isPrepaid: false, balanceMicroUsd: 0, reservedMicroUsd: 100 },
      accountId: account.accountId,
      key: {
        keyId: account.key.keyId,
        memberId: null,
        name: 'test',
        start: account.key.key.slice(0, 24),
        createdAtMs: Date.now(),
        expiresAtMs: null,
        revokedAtMs: null,
        windows: [],
        modelLimits: [],
        scopes: null,
        tier: 'standard',
        lastUsedAtMs: Date.now(),
        models: ['smol'],
        budget: { limitMicroUsd: 500, spentMicroUsd: 0, reservedMicroUsd: 100 },
      },
      limits: {
        requestLimit: 10,
        requestsRemaining: 9,
        requestResetMs: 6_000,
        tokenLimit: 20_000_000,
        tokensRemaining: 19_999_940,
        tokenResetMs: 1,
      },
      accountBudget: { limitMicroUsd: 1_000, spentMicroUsd: 0, reservedMicroUsd: 100 },
    })
    expect(await account.stub().listKeys()).toHaveLength(1)
  })

  it('change without touching what was spent, who the account is, or its keys', async () => {
    const account = await createTestAccount({ budgetMicroUsd: 100 })
    const requestId = await admitOne(account)
    await account.stub().settle(composeSettlement(requestId))
    const before = await account.stub().describeAccount()
    const settings = { ...before!.settings, budgetMicroUsd: 1_000 }
    const budget = { ...before!.budget, limitMicroUsd: 1_000 }
    expect(await account.stub().configure(settings)).toEqual({
      outcome: 'configured',
      account: { ...before, settings, budget },
    })
    await admitOne(account)
  })

  it('count from their change on, not for the time before it', async () => {
    const account = await createTestAccount({ requestsPerMinute: 2 })
    await admitOne(account)
    await admitOne(account)
    passTime(15_000)
    const { settings } = (await account.stub().describeAccount())!
    await account.stub().configure({ ...settings, requestsPerMinute: 1_000 })
    const refused = await account.stub().admit(composeAdmit(account.key))
    expect(refused).toMatchObject({ outcome: 'rate_limited', retryAfterMs: 30 })
  })
})
