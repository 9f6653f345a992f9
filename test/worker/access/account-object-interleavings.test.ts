import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import * as fc from 'fast-check'
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import type { SettleResult } from '../../../worker/access/account-contract.ts'
import { findUsage } from '../../../worker/ledger/usage-store.ts'
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
  takeLedgerDown,
} from '../support/account-fixture.ts'

fc.configureGlobal({ seed: 1 })

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})
afterEach(() => {
  vi.restoreAllMocks()
})

const ACCOUNT_BUDGET = 1_500
const KEY_BUDGET = 900
const MEMBER_BUDGET = 700

type Step =
  | { readonly do: 'admit'; readonly keyIndex: number; readonly worstCaseMicroUsd: number }
  | { readonly do: 'settle'; readonly of: number; readonly completionTokens: number }
  | { readonly do: 'grant'; readonly amountMicroUsd: number; readonly lastsTerms: number | null }
  | { readonly do: 'alarm' | 'pass a term' }

/** What happens between two looks at the account. */
interface Round {
  readonly isLedgerUp: boolean
  readonly backendSays: 'running' | 'completed' | 'unknown' | 'unreachable'
  /** Under way at the same time; a settlement may meet any request, open, settled or refused. */
  readonly steps: readonly Step[]
  readonly isEvictedAfter: boolean
}

const rounds: fc.Arbitrary<Round[]> = fc.array(
  fc.record<Round>({
    isLedgerUp: fc.boolean(),
    backendSays: fc.constantFrom('running', 'completed', 'unknown', 'unreachable'),
    steps: fc.array(
      fc.oneof<fc.MaybeWeightedArbitrary<Step>[]>(
        fc.record({
          do: fc.constant('admit'),
          keyIndex: fc.nat({ max: 3 }),
          worstCaseMicroUsd: fc.integer({ min: 0, max: 300 }),
        }),
        fc.record({
          do: fc.constant('settle'),
          of: fc.nat(),
          completionTokens: fc.nat({ max: 200 }),
        }),
        fc.record({
          do: fc.constant('grant'),
          amountMicroUsd: fc.integer({ min: 1, max: 400 }),
          lastsTerms: fc.option(fc.integer({ min: 1, max: 3 }), { nil: null }),
        }),
        fc.record({ do: fc.constantFrom('alarm', 'pass a term') }),
      ),
      { minLength: 1, maxLength: 8 },
    ),
    isEvictedAfter: fc.boolean(),
  }),
  { minLength: 5, maxLength: 15 },
)

class Run {
  readonly account: TestAccount
  readonly keys: readonly TestKey[]
  readonly requestIds: string[] = []
  readonly admitted = new Set<string>()
  readonly results: { requestId: string; result: SettleResult }[] = []
  #bringLedgerUp: (() => Promise<void>) | null = null

  constructor(account: TestAccount, keys: readonly TestKey[]) {
    this.account = account
    this.keys = keys
  }

  async play(round: Round): Promise<void> {
    await this.setLedger(round.isLedgerUp)
    answerReports((requestId) => answerReport(round.backendSays, requestId))
    await Promise.all(round.steps.map((step) => this.take(step)))
    if (round.isEvictedAfter) await this.account.evict()
  }

  async setLedger(isUp: boolean): Promise<void> {
    if (isUp) {
      await this.#bringLedgerUp?.()
      this.#bringLedgerUp = null
    } else {
      this.#bringLedgerUp ??= await takeLedgerDown()
    }
  }

  async take(step: Step): Promise<void> {
    const { stub } = this.account
    switch (step.do) {
      case 'admit': {
        const { worstCaseMicroUsd } = step
        const request = composeAdmit(this.keys[step.keyIndex]!, { worstCaseMicroUsd })
        this.requestIds.push(request.requestId)
        const { outcome } = await stub().admit(request)
        if (outcome === 'admitted') this.admitted.add(request.requestId)
        return
      }
      case 'settle': {
        const requestId = this.requestIds[step.of % this.requestIds.length]
        if (requestId === undefined) return
        const settlement = composeSettlement(requestId, {
          completionTokens: step.completionTokens,
          outcome: (['completed', 'client_aborted', 'upstream_failed'] as const)[step.of % 3]!,
        })
        this.results.push({ requestId, result: await stub().settle(settlement) })
        return
      }
      case 'grant': {
        const { amountMicroUsd, lastsTerms } = step
        const expiresAtMs = lastsTerms === null ? null : Date.now() + lastsTerms * TTL_MS
        const grant = { creditId: crypto.randomUUID(), amountMicroUsd, expiresAtMs, reason: 'test' }
        await Promise.all([stub().grantCredit(grant), stub().grantCredit(grant)])
        return
      }
      case 'alarm':
        await this.account.runAlarm()
        return
      case 'pass a term':
        passTime(TTL_MS)
    }
  }

  /** Nobody settles any more; D1 is back, and the backend has forgotten everything. */
  async drain(): Promise<void> {
    await this.setLedger(true)
    answerReports((requestId) => answerReport('unknown', requestId))
    passTime(TTL_MS)
    for (let alarmCount = 0; ; alarmCount++) {
      const { openReservationCount, outboxCount } = (await this.account.stub().describeAccount())!
      if (openReservationCount === 0 && outboxCount === 0) return
      expect(alarmCount).toBeLessThan(60)
      passTime(1_000)
      expect(await this.account.runAlarm()).toBe(true)
    }
  }
}

function answerReport(backendSays: Round['backendSays'], requestId: string): Response {
  switch (backendSays) {
    case 'unknown':
      return new Response(null, { status: 404 })
    case 'unreachable':
      return new Response(null, { status: 503 })
    default:
      return Response.json(composeReport(requestId, backendSays, 40))
  }
}

describe.each([{ prepaid: false }, { prepaid: true }])(
  'whatever runs at the same time, dies or is down ($prepaid prepaid)',
  ({ prepaid }) => {
    it(
      'settles each admitted request once, within budget and balance, and D1 has exactly that',
      () =>
        fc.assert(
          fc.asyncProperty(rounds, async (plan) => {
            stopClock()
            const account = await createTestAccount({ budgetMicroUsd: ACCOUNT_BUDGET, prepaid })
            const keys = [
              account.key,
              await account.addKey({ budgetMicroUsd: KEY_BUDGET }),
              ...(await addMember(account)),
            ]
            const run = new Run(account, keys)
            try {
              for (const round of plan) {
                await run.play(round)
                await expectWithinBudgets(account)
              }
              await run.drain()
            } finally {
              await run.setLedger(true)
            }
            await expectLedgerToAgree(run)
            await expectCreditsToAgree(run, prepaid)
          }),
          { numRuns: 6, endOnFailure: true },
        ),
      60_000,
    )
  },
)

/** A member with a budget for all time and a day, and a key without one and a narrow one. */
async function addMember(account: TestAccount): Promise<readonly TestKey[]> {
  const memberId = await account.addMember({
    budgetMicroUsd: MEMBER_BUDGET,
    windowBudgets: [{ window: 'day', limitMicroUsd: MEMBER_BUDGET - 100 }],
  })
  const narrow = { memberId, budgetMicroUsd: MEMBER_BUDGET / 2 }
  return [await account.addKey({ memberId }), await account.addKey(narrow)]
}

async function expectWithinBudgets(account: TestAccount): Promise<void> {
  const { budget } = (await account.stub().describeAccount())!
  const members = await account.stub().listMembers()
  const keys = await account.stub().listKeys()
  const windows = members.flatMap((member) =>
    member.windows.map((window) => ({ ...member.budget, ...window })),
  )
  for (const each of [budget, ...[...members, ...keys].map((owner) => owner.budget), ...windows]) {
    const { spentMicroUsd, reservedMicroUsd, limitMicroUsd } = each
    expect(spentMicroUsd + reservedMicroUsd).toBeLessThanOrEqual(limitMicroUsd ?? ACCOUNT_BUDGET)
  }
}

async function expectLedgerToAgree({ account, admitted, results }: Run): Promise<void> {
  const { records, sums } = await findUsage(env.DB, {
    accountId: account.accountId,
    fromMs: 0,
    toMs: Number.MAX_SAFE_INTEGER,
    group: 'key',
    cursor: null,
    limit: 1_000,
  })
  expect(records).toHaveLength(admitted.size)
  expect(new Set(records.map(({ requestId }) => requestId))).toEqual(admitted)

  const { budget } = (await account.stub().describeAccount())!
  const billed = sums.reduce((sum, { feeMicroUsd }) => sum + feeMicroUsd, 0)
  expect(billed).toBe(budget.spentMicroUsd)
  for (const key of await account.stub().listKeys()) {
    const billedToKey = sums.find(({ group }) => group === key.keyId)?.feeMicroUsd ?? 0
    expect(billedToKey).toBe(key.budget.spentMicroUsd)
    expect(billedToKey).toBeLessThanOrEqual(key.budget.limitMicroUsd ?? ACCOUNT_BUDGET)
  }

  const [member] = await account.stub().listMembers()
  const ofMember = records.filter(({ memberId }) => memberId === member?.memberId)
  const billedToMember = ofMember.reduce((sum, { feeMicroUsd }) => sum + feeMicroUsd, 0)
  expect(billedToMember).toBe(member?.budget.spentMicroUsd)

  const fees = new Map(records.map((record) => [record.requestId, record.feeMicroUsd]))
  const settledIds = new Set<string>()
  for (const { requestId, result } of results) {
    if (result.outcome === 'unknown_request') continue
    expect(result.feeMicroUsd).toBe(fees.get(requestId))
    if (result.outcome !== 'settled') continue
    expect(settledIds.has(requestId)).toBe(false)
    settledIds.add(requestId)
  }
}

/** What credits have paid is part of the fees; of an account that pays in advance, all of them. */
async function expectCreditsToAgree({ account }: Run, isPrepaid: boolean): Promise<void> {
  const { budget } = (await account.stub().describeAccount())!
  const credits = await account.stub().listCredits()
  const paid = credits.reduce((sum, each) => sum + each.amountMicroUsd - each.leftMicroUsd, 0)
  const months = await account.stub().listMonths()
  expect(months.reduce((sum, month) => sum + month.creditedMicroUsd, 0)).toBe(paid)
  if (isPrepaid) expect(paid).toBe(budget.spentMicroUsd)
  else expect(paid).toBeLessThanOrEqual(budget.spentMicroUsd)
  for (const { leftMicroUsd } of credits) expect(leftMicroUsd).toBeGreaterThanOrEqual(0)
}
