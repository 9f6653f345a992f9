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

type Step =
  | { do: 'admit'; keyIndex: number; worstCaseMicroUsd: number }
  | {
      do: 'settle'
      of: number
      completionTokens: number
      outcome: 'completed' | 'client_aborted' | 'upstream_failed'
    }
  | { do: 'evict' | 'alarm' | 'term' | 'ledgerDown' | 'ledgerUp' }
  | { do: 'backend'; answers: 'running' | 'completed' | 'unknown' | 'unreachable' }

/** Steps of one round are under way at the same time; a settle may meet any request, settled or not. */
const rounds: fc.Arbitrary<Step[][]> = fc.array(
  fc.array(
    fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({
          do: fc.constant('admit' as const),
          keyIndex: fc.nat({ max: 1 }),
          worstCaseMicroUsd: fc.integer({ min: 0, max: 300 }),
        }),
      },
      {
        weight: 6,
        arbitrary: fc.record({
          do: fc.constant('settle' as const),
          of: fc.nat(),
          completionTokens: fc.nat({ max: 200 }),
          outcome: fc.constantFrom(
            'completed' as const,
            'client_aborted' as const,
            'upstream_failed' as const,
          ),
        }),
      },
      {
        weight: 3,
        arbitrary: fc.record({
          do: fc.constantFrom(
            'evict' as const,
            'alarm' as const,
            'alarm' as const,
            'term' as const,
            'ledgerDown' as const,
            'ledgerUp' as const,
          ),
        }),
      },
      {
        weight: 1,
        arbitrary: fc.record({
          do: fc.constant('backend' as const),
          answers: fc.constantFrom(
            'running' as const,
            'completed' as const,
            'unknown' as const,
            'unreachable' as const,
          ),
        }),
      },
    ),
    { minLength: 1, maxLength: 6 },
  ),
  { minLength: 10, maxLength: 25 },
)

class Run {
  readonly account: TestAccount
  readonly keys: readonly TestKey[]
  readonly requestIds: string[] = []
  readonly admitted = new Set<string>()
  readonly results: { requestId: string; result: SettleResult }[] = []
  backendAnswers: Extract<Step, { do: 'backend' }>['answers'] = 'running'
  bringLedgerUp: (() => Promise<void>) | null = null

  constructor(account: TestAccount, keys: readonly TestKey[]) {
    this.account = account
    this.keys = keys
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
        const { completionTokens, outcome } = step
        const settlement = composeSettlement(requestId, { completionTokens, outcome })
        this.results.push({ requestId, result: await stub().settle(settlement) })
        return
      }
      case 'backend':
        this.backendAnswers = step.answers
        return
      case 'alarm':
        await this.account.runAlarm()
        return
      case 'term':
        passTime(TTL_MS)
        return
      case 'evict':
        // Nobody is there to be evicted twice.
        await this.account.evict().catch(() => {})
        return
      case 'ledgerDown':
        if (this.bringLedgerUp === null) {
          this.bringLedgerUp = async () => {}
          this.bringLedgerUp = await takeLedgerDown()
        }
        return
      case 'ledgerUp': {
        const bringUp = this.bringLedgerUp
        this.bringLedgerUp = null
        await bringUp?.()
      }
    }
  }

  answerReport(requestId: string): Response {
    switch (this.backendAnswers) {
      case 'unknown':
        return new Response(null, { status: 404 })
      case 'unreachable':
        return new Response(null, { status: 503 })
      default:
        return Response.json(composeReport(requestId, this.backendAnswers, 40))
    }
  }

  /** Nobody settles any more; D1 is back, and the backend has forgotten everything. */
  async drain(): Promise<void> {
    await this.take({ do: 'ledgerUp' })
    this.backendAnswers = 'unknown'
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

describe('whatever runs at the same time, dies or is down', () => {
  it('settles each admitted request once, within budget, and D1 has exactly that', () =>
    fc.assert(
      fc.asyncProperty(rounds, async (plan) => {
        stopClock()
        const account = await createTestAccount({ budgetMicroUsd: ACCOUNT_BUDGET })
        const keys = [account.key, await account.addKey({ budgetMicroUsd: KEY_BUDGET })]
        const run = new Run(account, keys)
        answerReports((requestId) => run.answerReport(requestId))
        for (const steps of plan) {
          await Promise.all(steps.map((step) => run.take(step)))
          const { budget } = (await account.stub().describeAccount())!
          expect(budget.spentMicroUsd + budget.reservedMicroUsd).toBeLessThanOrEqual(ACCOUNT_BUDGET)
        }
        await run.drain()

        const { records, sums } = await findUsage(env.DB, {
          accountId: account.accountId,
          fromMs: 0,
          toMs: Number.MAX_SAFE_INTEGER,
          group: 'key',
          cursor: null,
          limit: 1_000,
        })
        expect(new Set(records.map(({ requestId }) => requestId))).toEqual(run.admitted)
        expect(records).toHaveLength(run.admitted.size)
        const { budget } = (await account.stub().describeAccount())!
        expect(sums.reduce((sum, { feeMicroUsd }) => sum + feeMicroUsd, 0)).toBe(
          budget.spentMicroUsd,
        )
        for (const { keyId, budget: keyBudget } of await account.stub().listKeys()) {
          const billed = sums.find(({ group }) => group === keyId)?.feeMicroUsd ?? 0
          expect(billed).toBe(keyBudget.spentMicroUsd)
          expect(billed).toBeLessThanOrEqual(keyBudget.limitMicroUsd ?? ACCOUNT_BUDGET)
        }

        const fees = new Map(records.map((record) => [record.requestId, record.feeMicroUsd]))
        const settledIds = new Set<string>()
        for (const { requestId, result } of run.results) {
          if (result.outcome === 'unknown_request') continue
          expect(result.feeMicroUsd).toBe(fees.get(requestId))
          if (result.outcome === 'settled') expect(settledIds.has(requestId)).toBe(false)
          if (result.outcome === 'settled') settledIds.add(requestId)
        }
      }),
      { numRuns: 25 },
    ))
})
