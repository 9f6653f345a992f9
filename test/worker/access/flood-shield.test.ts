import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import * as fc from 'fast-check'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import type { AdmitRequest } from '../../../worker/access/account-contract.ts'
import { accountSettingsSchema } from '../../../worker/access/account-settings.ts'
import { FloodShield } from '../../../worker/access/flood-shield.ts'
import {
  composeAdmit,
  composeSettlement,
  createTestAccount,
  passTime,
  stopClock,
  type TestAccount,
} from '../support/account-fixture.ts'

fc.configureGlobal({ seed: 1 })

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

const FREE_CALLS_PER_MINUTE = 600
const ASKS_PER_SECOND = 3

const createShield = (asksPerSecond = 0) =>
  new FloodShield({ freeCallsPerMinute: FREE_CALLS_PER_MINUTE, asksPerSecond })

/** Asks as the gateway does. */
async function ask(
  account: TestAccount,
  shield: FloodShield,
  request: AdmitRequest,
  latencyMs = 0,
) {
  const askedAtMs = Date.now()
  const recalled = shield.recall(request, askedAtMs)
  if (recalled !== null) return { recalled, result: recalled }
  passTime(latencyMs)
  const result = await account.stub().admit(request)
  passTime(latencyMs)
  shield.note(request, result, { accountId: account.accountId, atMs: askedAtMs })
  return { recalled, result }
}

const SETTINGS = {
  requestsPerMinute: 30,
  tokensPerMinute: 600,
  maxConcurrentRequests: 6,
  windowBudgets: [{ window: 'rolling', durationMs: 20_000, limitMicroUsd: 900 }],
  modelLimits: [{ model: 'a', requestsPerMinute: 9, tokensPerMinute: 200 }],
}
const KEY_SETTINGS = {
  models: ['a', 'b'],
  budgetMicroUsd: 3_000,
  modelLimits: [{ model: 'a', tokensPerMinute: 150 }],
}

const steps = fc.array(
  fc.record({
    afterMs: fc.oneof(fc.nat({ max: 20 }), fc.nat({ max: 4_000 })),
    latencyMs: fc.nat({ max: 30 }),
    model: fc.constantFrom('a', 'a', 'b', 'forbidden'),
    tokenCount: fc.nat({ max: 200 }),
    microUsd: fc.nat({ max: 400 }),
    tier: fc.constantFrom(undefined, 'batch' as const, 'interactive' as const),
    settleCount: fc.nat({ max: 2 }),
  }),
  { minLength: 30, maxLength: 60 },
)

it('refuses nothing that the object would let in, and what it refuses is refused in the end', async () => {
  let recalledCount = 0
  await fc.assert(
    fc.asyncProperty(steps, async (plan) => {
      stopClock()
      const account = await createTestAccount(SETTINGS, KEY_SETTINGS)
      const shield = createShield()
      const open: string[] = []
      for (const { afterMs, latencyMs, model, tokenCount, microUsd, tier, settleCount } of plan) {
        passTime(afterMs)
        for (const requestId of open.splice(0, settleCount)) {
          const usage = { promptTokens: tokenCount % 7, completionTokens: tokenCount % 5 }
          await account.stub().settle(composeSettlement(requestId, usage))
        }
        const request = composeAdmit(account.key, {
          ...{ model, worstCaseTokenCount: tokenCount, worstCaseMicroUsd: microUsd },
          ...(tier && { tier }),
        })
        const { recalled, result } = await ask(account, shield, request, latencyMs)
        if (result.outcome === 'admitted') open.push(request.requestId)
        if (recalled === null) continue
        recalledCount += 1
        // A refusal of the object takes nothing, so that it may be asked for the truth.
        expect((await account.stub().admit(request)).outcome).not.toBe('admitted')
      }
    }),
    { numRuns: 8, endOnFailure: true },
  )
  expect(recalledCount).toBeGreaterThan(50)
}, 60_000)

it('says what is left of the wait, asks again when it is over, and not before', async () => {
  const account = await createTestAccount({}, { requestsPerMinute: 60 })
  const shield = createShield()
  const once = () => ask(account, shield, composeAdmit(account.key))
  for (let count = 0; count < 60; count++) await once()
  expect(await once()).toMatchObject({ recalled: null, result: { retryAfterMs: 1_000 } })
  passTime(400)
  expect(await once()).toMatchObject({
    recalled: { outcome: 'rate_limited', retryAfterMs: 600, limits: { requestResetMs: 59_600 } },
  })
  passTime(599)
  expect(await once()).toMatchObject({ recalled: { retryAfterMs: 1 } })
  passTime(1)
  expect(await once()).toMatchObject({ recalled: null, result: { outcome: 'admitted' } })
})

it('knows nothing of a smaller request, of another model, or of another key', async () => {
  const modelLimits = [{ model: 'a', tokensPerMinute: 100 }]
  const account = await createTestAccount({ modelLimits })
  const other = await account.addKey()
  const shield = createShield()
  const compose = (worstCaseTokenCount: number, changes: Partial<AdmitRequest> = {}) =>
    composeAdmit(account.key, { model: 'a', worstCaseTokenCount, ...changes })
  const first = compose(40)
  await ask(account, shield, first)
  await account.stub().settle(composeSettlement(first.requestId, { completionTokens: 60 }))
  await ask(account, shield, compose(80))
  const recall = (request: AdmitRequest) => shield.recall(request, Date.now())?.outcome ?? null
  expect(recall(compose(80))).toBe('rate_limited')
  expect(recall(compose(79))).toBeNull()
  expect(recall(compose(90, { model: 'b' }))).toBeNull()
  expect(recall(compose(90, { model: 'b', otherModels: ['a'] }))).toBe('rate_limited')
  expect(recall({ ...compose(90), keyHash: other.keyHash })).toBeNull()
  // It may be in the cache, and cost nothing.
  const cache = { key: 'k', modelDigest: first.requestId, adapterDigest: '' } as never
  expect(recall(compose(90, { cache }))).toBeNull()
})

it('does not hold on to a refusal that a running request may end', async () => {
  const account = await createTestAccount({ tokensPerMinute: 100, maxConcurrentRequests: 2 })
  const shield = createShield()
  const compose = () => composeAdmit(account.key, { worstCaseTokenCount: 60 })
  const first = compose()
  await ask(account, shield, first)
  expect((await ask(account, shield, compose())).result.outcome).toBe('rate_limited')
  await account.stub().settle(composeSettlement(first.requestId, { promptTokens: 0 }))
  expect((await ask(account, shield, compose())).result.outcome).toBe('admitted')
})

it('refuses by itself what finds all places taken by requests of its own isolate', async () => {
  const account = await createTestAccount({ maxConcurrentRequests: 4 }, { tier: 'interactive' })
  const { accountId, key } = account
  const shield = createShield()
  const once = (tier?: 'batch') => ask(account, shield, composeAdmit(key, tier && { tier }))
  const elsewhere = composeAdmit(key)
  await account.stub().admit(elsewhere)
  const closings: (() => void)[] = []
  const open = async () => {
    expect(await once()).toMatchObject({ recalled: null, result: { outcome: 'admitted' } })
    closings.push(shield.open({ accountId, keyHash: key.keyHash }))
  }
  for (let count = 0; count < 2; count++) await open()
  // One of another isolate may end without this one's knowing.
  for (let count = 0; count < 2; count++)
    expect(await once('batch')).toMatchObject({ recalled: null, result: { limit: 3 } })
  await open()
  expect((await once('batch')).recalled).toMatchObject({ limit: 3, tier: 'batch' })
  for (let count = 0; count < 2; count++)
    expect(await once()).toMatchObject({ recalled: null, result: { limit: 4 } })
  await account.stub().settle(composeSettlement(elsewhere.requestId))
  await open()
  expect((await once()).recalled).toMatchObject({ outcome: 'too_many_at_once', limit: 4 })
  closings[0]?.()
  closings[0]?.()
  expect((await once()).recalled).toBeNull()
})

it('asks a few times a second all the same, and learns so what the operator has changed', async () => {
  const account = await createTestAccount({ requestsPerMinute: 1 })
  const shield = createShield(ASKS_PER_SECOND)
  const once = () => ask(account, shield, composeAdmit(account.key))
  const asked = async (count: number) => {
    const all = []
    for (let index = 0; index < count; index++) all.push((await once()).recalled === null)
    return all.filter((isAsked) => isAsked).length
  }
  expect(await asked(2)).toBe(2)
  expect(await asked(10)).toBe(ASKS_PER_SECOND)
  passTime(1_000)
  expect(await asked(10)).toBe(ASKS_PER_SECOND)
  await account.stub().configure(accountSettingsSchema.parse({ requestsPerMinute: 600_000 }))
  passTime(999)
  expect((await once()).recalled?.outcome).toBe('rate_limited')
  passTime(1)
  expect(await once()).toMatchObject({ recalled: null, result: { outcome: 'admitted' } })
  expect(await asked(10)).toBe(10)
})

it('remembers keys that are none any more, and knows a new one at once', async () => {
  const account = await createTestAccount()
  const shield = createShield()
  await account.stub().revokeKey(account.key.keyId)
  const { keyHash } = account.key
  expect(shield.isUnknown(keyHash, Date.now())).toBe(false)
  await ask(account, shield, composeAdmit(account.key))
  expect(shield.isUnknown(keyHash, Date.now())).toBe(true)
  const added = await account.addKey()
  expect(shield.isUnknown(added.keyHash, Date.now())).toBe(false)
  const { result } = await ask(account, shield, composeAdmit(added))
  expect(result.outcome).toBe('admitted')
})

it('lets what may be an answer given again ask as often as a free call, and no oftener', async () => {
  const account = await createTestAccount({ requestsPerMinute: 1 })
  const shield = createShield()
  await ask(account, shield, composeAdmit(account.key))
  await ask(account, shield, composeAdmit(account.key))
  const idempotency = { key: 'k', fingerprint: 'f' } as never
  const recall = () => shield.recall(composeAdmit(account.key, { idempotency }), Date.now())
  for (let count = 0; count < FREE_CALLS_PER_MINUTE; count++) expect(recall()).toBeNull()
  expect(recall()?.outcome).toBe('rate_limited')
  expect(shield.takeFreeCall(account.key.keyHash, Date.now())).toBe(100)
})

it('remembers a bounded number of keys, the latest', () => {
  const shield = createShield()
  for (let index = 0; index < 20_000; index++)
    shield.noteUnknown({ accountId: 'acct_x', keyHash: `key ${index}` }, 0)
  expect(shield.isUnknown('key 19999', 1)).toBe(true)
  expect(shield.isUnknown('key 9999', 1)).toBe(false)
})
