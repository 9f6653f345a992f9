import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import * as fc from 'fast-check'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import type { AdmitResult } from '../../../worker/access/account-contract.ts'
import { accountSettingsSchema } from '../../../worker/access/account-settings.ts'
import {
  admitOne,
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

/** Rates a minute: as many seconds are between two as 60 has of them. */
const LIMITS = {
  account: { requestsPerMinute: 12, tokensPerMinute: 600, maxConcurrentRequests: 9 },
  accountOfModel: { requestsPerMinute: 8, tokensPerMinute: 400, maxConcurrentRequests: 6 },
  key: { requestsPerMinute: 6, tokensPerMinute: 300, maxConcurrentRequests: 5 },
  keyOfModel: { requestsPerMinute: 3, tokensPerMinute: 120, maxConcurrentRequests: 2 },
}
const MODELS = ['a', 'b'] as const

const createLimitedAccount = () =>
  createTestAccount(
    { ...LIMITS.account, modelLimits: [{ model: 'a', ...LIMITS.accountOfModel }] },
    { ...LIMITS.key, modelLimits: [{ model: 'a', ...LIMITS.keyOfModel }] },
  )

interface Arrival {
  readonly afterMs: number
  readonly model: (typeof MODELS)[number]
  readonly keyIndex: number
  readonly tokenCount: number
  /** How many of the oldest open requests end before it, having used a third of their tokens. */
  readonly endCount: number
}

const arrivals = fc.array(
  fc.record<Arrival>({
    afterMs: fc.oneof(fc.constant(0), fc.nat({ max: 12_000 })),
    model: fc.constantFrom(...MODELS),
    keyIndex: fc.nat({ max: 1 }),
    tokenCount: fc.nat({ max: 90 }),
    endCount: fc.nat({ max: 3 }),
  }),
  { minLength: 20, maxLength: 40 },
)

interface Served extends Arrival {
  readonly requestId: string
  readonly atMs: number
  endedAtMs: number | null
}

/** Every limit by name, and which requests it is of. */
const RULES = [
  { limit: LIMITS.account, counts: () => true },
  { limit: LIMITS.accountOfModel, counts: ({ model }: Arrival) => model === 'a' },
  ...[0, 1].flatMap((keyIndex) => [
    { limit: LIMITS.key, counts: (each: Arrival) => each.keyIndex === keyIndex },
    {
      limit: LIMITS.keyOfModel,
      counts: (each: Arrival) => each.keyIndex === keyIndex && each.model === 'a',
    },
  ]),
]

/** In no span more than a minute's worth and what flows in meanwhile. Tokens are those used, and those that may be. */
function expectWithin(served: readonly Served[]): void {
  for (const { limit, counts } of RULES) {
    const own = served.filter(counts)
    for (const [index, first] of own.entries()) {
      let tokenCount = 0
      for (const [offset, last] of own.slice(index).entries()) {
        const minutes = 1 + (last.atMs - first.atMs) / 60_000
        tokenCount += last.endedAtMs === null ? last.tokenCount : usedOf(last)
        expect(offset + 1).toBeLessThanOrEqual(limit.requestsPerMinute * minutes)
        expect(tokenCount).toBeLessThanOrEqual(limit.tokensPerMinute * minutes)
      }
    }
    const open = own.filter(({ endedAtMs }) => endedAtMs === null)
    expect(open.length).toBeLessThanOrEqual(limit.maxConcurrentRequests)
  }
}

const usedOf = ({ tokenCount }: Arrival) => Math.floor(tokenCount / 3)

async function endRequest(account: TestAccount, served: Served): Promise<void> {
  const usage = { promptTokens: 0, completionTokens: usedOf(served) }
  await account.stub().settle(composeSettlement(served.requestId, usage))
  served.endedAtMs = Date.now()
}

it(
  'admits no more in any span than each limit allows, whatever the arrivals',
  () =>
    fc.assert(
      fc.asyncProperty(arrivals, async (plan) => {
        stopClock()
        const account = await createLimitedAccount()
        const second = await account.addKey({
          ...LIMITS.key,
          modelLimits: [{ model: 'a', ...LIMITS.keyOfModel }],
        })
        const keys = [account.key, second]
        const served: Served[] = []
        for (const arrival of plan) {
          passTime(arrival.afterMs)
          const open = served.filter(({ endedAtMs }) => endedAtMs === null)
          for (const each of open.slice(0, arrival.endCount)) await endRequest(account, each)
          const request = composeAdmit(keys[arrival.keyIndex]!, {
            model: arrival.model,
            worstCaseTokenCount: arrival.tokenCount,
          })
          const { outcome } = await account.stub().admit(request)
          if (outcome !== 'admitted') continue
          const { requestId } = request
          served.push({ ...arrival, requestId, atMs: Date.now(), endedAtMs: null })
          expectWithin(served)
        }
      }),
      { numRuns: 6, endOnFailure: true },
    ),
  60_000,
)

it(
  'takes nothing for a refused request, and says exactly when it fits every limit',
  () =>
    fc.assert(
      fc.asyncProperty(arrivals, async (plan) => {
        stopClock()
        const account = await createLimitedAccount()
        for (const { model, tokenCount, afterMs } of plan.slice(0, 20)) {
          passTime(afterMs)
          const request = () =>
            composeAdmit(account.key, { model, worstCaseTokenCount: tokenCount })
          const first = request()
          const result = await account.stub().admit(first)
          if (result.outcome === 'admitted')
            await account.stub().settle(
              composeSettlement(first.requestId, {
                promptTokens: 0,
                completionTokens: tokenCount,
              }),
            )
          if (result.outcome !== 'rate_limited') continue
          expect(await account.stub().admit(request())).toEqual(result)
          passTime(result.retryAfterMs - 1)
          expect(await account.stub().admit(request())).toMatchObject({ retryAfterMs: 1 })
          passTime(1)
          const retried = request()
          expect((await account.stub().admit(retried)).outcome).toBe('admitted')
          await account.stub().settle(
            composeSettlement(retried.requestId, {
              promptTokens: 0,
              completionTokens: tokenCount,
            }),
          )
        }
      }),
      { numRuns: 4, endOnFailure: true },
    ),
  60_000,
)

const refusal = (result: AdmitResult) => {
  const {
    limits: _,
    retryAfterMs: __,
    standsForMs: ___,
    ...rest
  } = result as Record<string, unknown> & AdmitResult
  return rest
}

it('names the limit that holds a request back, and its headers tell of the tightest', async () => {
  const account = await createLimitedAccount()
  const admit = (model: string, worstCaseTokenCount = 1) =>
    account.stub().admit(composeAdmit(account.key, { model, worstCaseTokenCount }))
  expect(await admit('a')).toMatchObject({ limits: { requestLimit: 3, tokenLimit: 120 } })
  await admit('a')
  const crowded = { outcome: 'too_many_at_once', scope: 'key', model: 'a', limit: 2 }
  expect(await admit('a')).toEqual(crowded)
  expect(await admit('b')).toMatchObject({ outcome: 'admitted', limits: { requestLimit: 6 } })
  const idle = await createLimitedAccount()
  const all = await Promise.all(
    [110, 20].map((worstCaseTokenCount) =>
      idle.stub().admit(composeAdmit(idle.key, { model: 'a', worstCaseTokenCount })),
    ),
  )
  expect(all[0]).toMatchObject({ limits: { tokenLimit: 120, tokensRemaining: 10 } })
  const limited = { outcome: 'rate_limited', scope: 'key', model: 'a', what: 'tokens', limit: 120 }
  expect(refusal(all[1]!)).toEqual(limited)
})

it('counts a request for every model that it names, wherever it is served', async () => {
  const account = await createTestAccount({
    modelLimits: [{ model: 'a', maxConcurrentRequests: 1 }],
  })
  const requestId = await admitOne(account, { model: 'b', otherModels: ['a'] })
  const again = () => account.stub().admit(composeAdmit(account.key, { model: 'a' }))
  const crowded = { outcome: 'too_many_at_once', scope: 'account', model: 'a', limit: 1 }
  expect(await again()).toEqual(crowded)
  const price = composeAdmit(account.key).price
  const to = { backendId: 'local', model: 'c', price, priceChanges: [] }
  expect(await account.stub().reroute(requestId, to)).toBe(true)
  await account.evict()
  expect(await again()).toEqual(crowded)
  await account.stub().settle(composeSettlement(requestId))
  expect((await again()).outcome).toBe('admitted')
})

it('holds from the next request on, counts what runs already, and keeps what was taken', async () => {
  const account = await createTestAccount()
  const first = await admitOne(account, { model: 'a', worstCaseTokenCount: 70 })
  const set = (tokensPerMinute: number) =>
    account
      .stub()
      .configure(accountSettingsSchema.parse({ modelLimits: [{ model: 'a', tokensPerMinute }] }))
  expect(await set(100)).toMatchObject({
    account: {
      settings: { modelLimits: [{ model: 'a', tokensPerMinute: 100, requestsPerMinute: null }] },
      modelLimits: [{ model: 'a', tokensRemaining: 30, requestsRemaining: null }],
    },
  })
  await account.evict()
  const request = composeAdmit(account.key, { model: 'a', worstCaseTokenCount: 31 })
  expect(await account.stub().admit(request)).toMatchObject({ outcome: 'rate_limited', model: 'a' })
  await account.stub().settle(composeSettlement(first, { promptTokens: 10, completionTokens: 10 }))
  expect(await set(200)).toMatchObject({
    account: { modelLimits: [{ tokensRemaining: 80 }] },
  })
  await account.stub().configure(accountSettingsSchema.parse({}))
  expect((await account.stub().describeAccount())?.modelLimits).toEqual([])
})
