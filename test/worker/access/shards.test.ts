import { applyD1Migrations, evictDurableObject, runDurableObjectAlarm } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import * as fc from 'fast-check'
import { afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import {
  accountSettingsSchema,
  memberSettingsSchema,
} from '../../../worker/access/account-settings.ts'
import { nameShard } from '../../../worker/access/account-shards.ts'
import {
  answerReports,
  composeAdmit,
  composeReport,
  composeSettlement,
  createTestAccount,
  passTime,
  stopClock,
  type TestAccount,
  type TestKey,
  TTL_MS,
} from '../support/account-fixture.ts'

fc.configureGlobal({ seed: 1 })

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})
afterEach(() => {
  vi.restoreAllMocks()
})

const SHARDS = 4

function shardOf({ accountId }: TestAccount, index: number) {
  return env.ACCOUNT.getByName(nameShard(accountId, index))
}

async function admitAt(
  account: TestAccount,
  index: number,
  key: TestKey = account.key,
  worstCaseMicroUsd = 100,
) {
  const request = composeAdmit(key, { worstCaseMicroUsd })
  const stub = shardOf(account, index)
  const result = index === 0 ? await stub.admit(request) : await stub.admitShare(request)
  return { requestId: request.requestId, result }
}

async function readBudget(account: TestAccount) {
  const description = await account.stub().describeAccount()
  if (description === null) throw new Error('There is no account.')
  return description
}

/** Lets all shards tell and return what they have. */
async function rest(account: TestAccount): Promise<void> {
  for (let round = 0; round < 3; round++) {
    passTime(6_000)
    for (let index = 1; index < SHARDS; index++)
      await runDurableObjectAlarm(shardOf(account, index))
  }
}

test('a shard admits and settles by its lease; the account knows what was spent, and D1 has the records', async () => {
  const account = await createTestAccount({ shards: SHARDS, budgetMicroUsd: 10_000 })
  const { requestId, result } = await admitAt(account, 2)
  expect(result).toMatchObject({ outcome: 'admitted', shards: SHARDS })
  expect((await readBudget(account)).openReservationCount).toBe(1)
  const settled = await shardOf(account, 2).settle(composeSettlement(requestId))
  expect(settled).toEqual({ outcome: 'settled', feeMicroUsd: 50 })
  const again = await shardOf(account, 2).settle(composeSettlement(requestId))
  expect(again).toEqual({ outcome: 'already_settled', feeMicroUsd: 50 })
  const { budget, outboxCount } = await readBudget(account)
  expect(budget.spentMicroUsd).toBe(50)
  expect(outboxCount).toBe(2) // the key, and the record
  expect(await account.stub().flushLedger()).toBe(true)
  expect(await sumOfD1(account)).toBe(50)
  await rest(account)
  expect((await readBudget(account)).budget).toMatchObject({
    spentMicroUsd: 50,
    reservedMicroUsd: 0,
  })
  const month = new Date().toISOString().slice(0, 7)
  const reading = await account.stub().readMonth(month)
  expect(reading).toMatchObject({ settled: { requestCount: 1, feeMicroUsd: 50 }, isSealed: false })
  expect(await account.stub().listMonths()).toMatchObject([{ month, requestCount: 1 }])
})

test('all of a budget can be spent, wherever its requests go; a refusal names the budget itself', async () => {
  const account = await createTestAccount({ shards: SHARDS, budgetMicroUsd: 1_000 })
  let admittedCount = 0
  for (let index = 0; index < 20; index++) {
    passTime(1_000)
    const { result } = await admitAt(account, index % SHARDS)
    if (result.outcome === 'admitted') admittedCount += 1
    else
      expect(result).toMatchObject({
        ...{ outcome: 'over_budget', scope: 'account', window: 'total' },
        ...{ limitMicroUsd: 1_000, reservedMicroUsd: 1_000 },
      })
  }
  expect(admittedCount).toBe(10)
})

test('a window counts what shards have settled, too', async () => {
  const windowBudgets = [{ window: 'day', limitMicroUsd: 250 }]
  const account = await createTestAccount({ shards: SHARDS, windowBudgets })
  for (const index of [1, 2, 3]) {
    const { requestId, result } = await admitAt(account, index)
    passTime(1_000)
    if (result.outcome === 'admitted')
      await shardOf(account, index).settle(composeSettlement(requestId, { completionTokens: 35 }))
    expect(result.outcome).toBe(index === 3 ? 'over_budget' : 'admitted')
  }
  await rest(account)
  expect((await readBudget(account)).windows).toMatchObject([{ window: 'day', spentMicroUsd: 200 }])
})

test('a revoked key, a removed member and a lower budget hold at every shard from the answer on', async () => {
  const account = await createTestAccount({ shards: SHARDS })
  const member = await account.stub().createMember(memberSettingsSchema.parse({ name: 'ada' }))
  const theirs = await account.addKey({ memberId: member.memberId })
  for (const key of [account.key, theirs])
    expect((await admitAt(account, 1, key)).result.outcome).toBe('admitted')
  await account.stub().removeMember(member.memberId)
  expect((await admitAt(account, 1, theirs)).result.outcome).toBe('unknown_key')
  const { settings } = await readBudget(account)
  await account.stub().configure({ ...settings, budgetMicroUsd: 250 })
  expect((await admitAt(account, 1)).result.outcome).toBe('over_budget')
  await account.stub().configure({ ...settings, budgetMicroUsd: null })
  expect((await admitAt(account, 1)).result.outcome).toBe('admitted')
  await account.stub().revokeKey(account.key.keyId)
  expect((await admitAt(account, 1)).result.outcome).toBe('unknown_key')
})

test('a key that expires does so at a shard, lease or not', async () => {
  const account = await createTestAccount({ shards: SHARDS }, { expiresAtMs: Date.now() + 2_000 })
  expect((await admitAt(account, 1)).result.outcome).toBe('admitted')
  passTime(1_999)
  expect((await admitAt(account, 1)).result.outcome).toBe('admitted')
  passTime(1)
  expect((await admitAt(account, 1)).result.outcome).toBe('unknown_key')
})

test('a shard that is none any more admits nothing, and settles what is open', async () => {
  const account = await createTestAccount({ shards: SHARDS, budgetMicroUsd: 1_000 })
  const { requestId } = await admitAt(account, 3)
  const { settings } = await readBudget(account)
  await account.stub().configure({ ...settings, shards: 1 })
  expect((await admitAt(account, 3)).result).toEqual({ outcome: 'moved' })
  expect((await admitAt(account, 0)).result).not.toHaveProperty('shards')
  await shardOf(account, 3).settle(composeSettlement(requestId))
  await rest(account)
  expect((await readBudget(account)).budget).toMatchObject({
    spentMicroUsd: 50,
    reservedMicroUsd: 100,
  })
})

test('rates and places are shared out: together the shards let through no more than the account may', async () => {
  const account = await createTestAccount({
    ...{ shards: SHARDS, requestsPerMinute: 9, tokensPerMinute: 1_000 },
    maxConcurrentRequests: 100,
  })
  const outcomes: string[] = []
  for (let index = 0; index < 20; index++)
    outcomes.push((await admitAt(account, index % SHARDS)).result.outcome)
  expect(outcomes.filter((outcome) => outcome === 'admitted')).toHaveLength(8)
  passTime(60_000)
  const large = composeAdmit(account.key, { worstCaseTokenCount: 251 })
  expect(await shardOf(account, 1).admitShare(large)).toMatchObject({
    ...{ outcome: 'rate_limited', what: 'tokens', limit: 250 },
  })
})

test('what only one object can ration keeps an account from having shards', async () => {
  const settings = accountSettingsSchema.parse({ shards: 2 })
  const explain = async (account: TestAccount, changes: object = {}) =>
    account.stub().explainUnshardable({ ...settings, ...changes })
  const plain = await createTestAccount()
  expect(await explain(plain)).toBeNull()
  expect(await explain(plain, { prepaid: true })).toMatch('credits')
  expect(await explain(plain, { maxConcurrentRequests: 1 })).toMatch('max_concurrent_requests')
  const limited = await createTestAccount({}, { requestsPerMinute: 5 })
  expect(await explain(limited)).toBe(`the key ${limited.key.keyId} has requests_per_minute`)
  const sharded = await createTestAccount({ shards: 2 })
  const changed = (async () =>
    sharded.stub().changeKey(sharded.key.keyId, { maxConcurrentRequests: 1 }))()
  await expect(changed).rejects.toThrow('max_concurrent_requests')
})

const ACCOUNT_BUDGET = 1_500
const KEY_BUDGET = 900
const MEMBER_BUDGET = 700

type Step =
  | { readonly do: 'admit'; readonly at: number; readonly by: number; readonly microUsd: number }
  | { readonly do: 'settle'; readonly of: number; readonly completionTokens: number }
  | { readonly do: 'alarm'; readonly at: number }
  | { readonly do: 'evict'; readonly at: number }
  | { readonly do: 'pass time'; readonly durationMs: number }

const at = fc.nat({ max: SHARDS - 1 })
const rounds: fc.Arbitrary<Step[][]> = fc.array(
  fc.array(
    fc.oneof<fc.MaybeWeightedArbitrary<Step>[]>(
      {
        weight: 4,
        arbitrary: fc.record({
          ...{ do: fc.constant('admit'), at },
          ...{ by: fc.nat({ max: 2 }), microUsd: fc.integer({ min: 0, max: 300 }) },
        }),
      },
      {
        weight: 3,
        arbitrary: fc.record({
          ...{ do: fc.constant('settle'), of: fc.nat(), completionTokens: fc.nat({ max: 200 }) },
        }),
      },
      fc.record({ do: fc.constant('alarm'), at }),
      fc.record({ do: fc.constant('evict'), at }),
      fc.record({ do: fc.constant('pass time'), durationMs: fc.constantFrom(1, 1_000, 6_000) }),
    ),
    { minLength: 1, maxLength: 8 },
  ),
  { minLength: 4, maxLength: 10 },
)

test('whatever runs at once and is evicted, no budget is exceeded and every request is settled once', async () => {
  answerReports((requestId) => Response.json(composeReport(requestId, 'completed', 20)))
  await fc.assert(
    fc.asyncProperty(rounds, async (played) => {
      const account = await createTestAccount(
        { shards: SHARDS, budgetMicroUsd: ACCOUNT_BUDGET },
        { budgetMicroUsd: KEY_BUDGET },
      )
      const settings = memberSettingsSchema.parse({ name: 'ada', budgetMicroUsd: MEMBER_BUDGET })
      const { memberId } = await account.stub().createMember(settings)
      const keys = [
        account.key,
        await account.addKey({ memberId }),
        await account.addKey({ memberId }),
      ]
      const admitted: { readonly requestId: string; readonly at: number }[] = []
      const fees = new Map<string, number>()
      const play = async (step: Step): Promise<void> => {
        if (step.do === 'pass time') return passTime(step.durationMs)
        if (step.do === 'settle') {
          const request = admitted[step.of % (admitted.length || 1)]
          if (request === undefined) return
          const { requestId } = request
          const { completionTokens } = step
          const settlement = composeSettlement(requestId, { completionTokens })
          const result = await shardOf(account, request.at).settle(settlement)
          if (result.outcome === 'unknown_request') throw new Error(`${requestId} is lost.`)
          expect(fees.get(requestId) ?? result.feeMicroUsd).toBe(result.feeMicroUsd)
          fees.set(requestId, result.feeMicroUsd)
          return
        }
        const stub = shardOf(account, step.at)
        if (step.do === 'alarm') await runDurableObjectAlarm(stub)
        if (step.do === 'evict') await evictDurableObject(stub)
        if (step.do === 'admit') {
          const key = keys[step.by] ?? account.key
          const { requestId, result } = await admitAt(account, step.at, key, step.microUsd)
          if (result.outcome === 'admitted') admitted.push({ requestId, at: step.at })
        }
      }
      for (const steps of played) {
        // An eviction breaks off what runs: callers would try again.
        await Promise.all(steps.map((step) => play(step).catch(ignoreReset)))
        await expectWithinBudgets(account)
      }
      passTime(TTL_MS)
      for (let index = 0; index < SHARDS; index++)
        while ((await readBudgetOf(account, index)) > 0)
          await runDurableObjectAlarm(shardOf(account, index))
      await rest(account)
      await expectWithinBudgets(account)
      const { budget, openReservationCount } = await readBudget(account)
      expect(openReservationCount).toBe(0)
      expect(budget.reservedMicroUsd).toBe(0)
      expect(await account.stub().flushLedger()).toBe(true)
      expect(await sumOfD1(account)).toBe(budget.spentMicroUsd)
      const settledFees = [...fees.values()].reduce((sum, fee) => sum + fee, 0)
      expect(budget.spentMicroUsd).toBeGreaterThanOrEqual(settledFees)
    }),
    { numRuns: 25 },
  )
}, 120_000)

async function readBudgetOf(account: TestAccount, index: number): Promise<number> {
  if (index !== 0) return (await shardOf(account, index).readShard()).openReservationCount
  const own = await readBudget(account)
  let others = 0
  for (let shard = 1; shard < SHARDS; shard++)
    others += (await shardOf(account, shard).readShard()).openReservationCount
  return own.openReservationCount - others
}

function ignoreReset(error: unknown): void {
  if (!/reset|evict|lost|no longer|aborted|broken|retryable/i.test(String(error))) throw error
}

async function expectWithinBudgets(account: TestAccount): Promise<void> {
  const { budget } = await readBudget(account)
  expect(budget.spentMicroUsd + budget.reservedMicroUsd).toBeLessThanOrEqual(ACCOUNT_BUDGET)
  for (const key of await account.stub().listKeys())
    if (key.budget.limitMicroUsd !== null)
      expect(key.budget.spentMicroUsd + key.budget.reservedMicroUsd).toBeLessThanOrEqual(KEY_BUDGET)
  for (const member of await account.stub().listMembers())
    expect(member.budget.spentMicroUsd + member.budget.reservedMicroUsd).toBeLessThanOrEqual(
      MEMBER_BUDGET,
    )
}

async function sumOfD1({ accountId }: TestAccount): Promise<number> {
  const query = 'SELECT coalesce(sum(fee_micro_usd), 0) AS fees FROM usage WHERE account_id = ?'
  return (await env.DB.prepare(query).bind(accountId).first<number>('fees')) ?? 0
}
