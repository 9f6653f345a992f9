import type { DatabaseSync } from 'node:sqlite'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { readStripeAccount, setStripeCustomer } from '../../worker/ledger/meter-event-store.ts'
import { reportUsage } from '../../worker/ledger/report-usage.ts'
import { createStripeClient } from '../../worker/ledger/stripe-client.ts'
import { type StripeFault, StripeStandIn } from '../support/stripe-stand-in.ts'
import { connectD1, createLedger } from './simulated-d1.ts'

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const START_MS = Date.UTC(2026, 0, 31, 20)
const ACCOUNTS = ['acct_a', 'acct_b', 'acct_c'] as const

type D1Fault = 'none' | 'lost' | 'cut'

interface World {
  readonly ledger: DatabaseSync
  readonly stripe: StripeStandIn
  readonly clock: { nowMs: number }
  readonly recordedMicroUsd: Map<string, number>
  /** Settles a request of the account. */
  readonly record: (account: number, feeMicroUsd: number) => void
  /** One run, which may end anywhere. */
  readonly run: (database: D1Database) => Promise<void>
  readonly connect: (nextFault: () => D1Fault) => D1Database
}

function createWorld(nextStripeFault: () => StripeFault): World {
  const ledger = createLedger()
  const clock = { nowMs: START_MS }
  const stripe = new StripeStandIn(nextStripeFault, () => clock.nowMs)
  const recordedMicroUsd = new Map<string, number>()
  let count = 0
  const client = createStripeClient({
    url: 'https://stripe.test/',
    secretKey: 'sk_test',
    eventName: 'micro_usd',
    timeoutMs: 1_000,
    fetch: async (url, init) => {
      expect(url).toBe('https://stripe.test/v1/billing/meter_events')
      const { status, text } = stripe.answer(new Headers(init.headers), String(init.body))
      return new Response(text, { status })
    },
  })
  return {
    ledger,
    stripe,
    clock,
    recordedMicroUsd,
    record: (account, feeMicroUsd) => {
      const accountId = ACCOUNTS[account]!
      insertUsage(ledger, {
        requestId: `req_${count++}`,
        accountId,
        feeMicroUsd,
        atMs: clock.nowMs,
      })
      recordedMicroUsd.set(accountId, (recordedMicroUsd.get(accountId) ?? 0) + feeMicroUsd)
    },
    run: async (database) => {
      await reportUsage({ database, stripe: client, now: () => clock.nowMs }).catch(() => {})
    },
    connect: (nextFault) =>
      connectD1(ledger, {
        isUp: () => true,
        beginCall: () => () => true,
        network: {
          send: async <T>(execute: () => T) => {
            const fault = nextFault()
            if (fault === 'lost') throw new Error('never arrived')
            const result = execute()
            if (fault === 'cut') throw new Error('the answer was lost')
            return result
          },
          // biome-ignore lint/suspicious/noExplicitAny: the one method that is used
        } as any,
      }),
  }
}

/** A row with what the columns want, and what is looked at. */
function insertUsage(
  ledger: DatabaseSync,
  row: { requestId: string; accountId: string; feeMicroUsd: number; atMs: number },
): void {
  const columns = ledger.prepare("SELECT name, type FROM pragma_table_info('usage')").all() as {
    name: string
    type: string
  }[]
  const values: Record<string, string | number | null> = {
    request_id: row.requestId,
    account_id: row.accountId,
    fee_micro_usd: row.feeMicroUsd,
    completed_at_ms: row.atMs,
    batch_id: null,
  }
  ledger
    .prepare(`INSERT INTO usage VALUES (${columns.map(() => '?').join(', ')})`)
    .run(...columns.map(({ name, type }) => values[name] ?? (type === 'text' ? '' : 0)))
}

const sumOf = (events: readonly { valueMicroUsd: number }[]) =>
  events.reduce((sum, { valueMicroUsd }) => sum + valueMicroUsd, 0)

const stripeFault = fc.constantFrom<StripeFault>(
  'none',
  'rate_limited',
  'fails',
  'takes_and_fails',
  'lost',
  'takes_and_cuts',
)

const action = fc.oneof(
  fc.record({
    kind: fc.constant('record' as const),
    account: fc.nat(2),
    feeMicroUsd: fc.nat(1_000),
  }),
  fc.record({ kind: fc.constant('wait' as const), minutes: fc.integer({ min: 1, max: 90 }) }),
  fc.record({
    kind: fc.constant('run' as const),
    d1Faults: fc.array(fc.constantFrom<D1Fault>('none', 'none', 'none', 'lost', 'cut'), {
      maxLength: 12,
    }),
    stripeFaults: fc.array(stripeFault, { maxLength: 6 }),
    runCount: fc.integer({ min: 1, max: 2 }),
  }),
)

test('whatever fails, Stripe takes what the records add up to: nothing lost, nothing twice', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 40 }), async (actions) => {
      const stripeFaults: StripeFault[] = []
      const world = createWorld(() => stripeFaults.shift() ?? 'none')
      const healthy = world.connect(() => 'none')
      for (const [index, accountId] of ACCOUNTS.entries()) {
        await setStripeCustomer(healthy, accountId, `cus_${index}`)
      }
      for (const each of actions) {
        if (each.kind === 'record') world.record(each.account, each.feeMicroUsd)
        if (each.kind === 'wait') world.clock.nowMs += each.minutes * MINUTE_MS
        if (each.kind !== 'run') continue
        stripeFaults.push(...each.stripeFaults)
        const d1Faults = [...each.d1Faults]
        const database = world.connect(() => d1Faults.shift() ?? 'none')
        await Promise.all(Array.from({ length: each.runCount }, () => world.run(database)))
      }
      stripeFaults.length = 0
      for (let count = 0; count < 3; count++) await world.run(healthy)
      for (const [index, accountId] of ACCOUNTS.entries()) {
        const taken = world.stripe.taken.filter(({ customerId }) => customerId === `cus_${index}`)
        const recorded = world.recordedMicroUsd.get(accountId) ?? 0
        // Where nothing was left alone for being uncertain, the two are the same number.
        const { uncertainMicroUsd } = await readStripeAccount(healthy, accountId, world.clock.nowMs)
        expect(sumOf(taken)).toBeLessThanOrEqual(recorded)
        expect(sumOf(taken)).toBeGreaterThanOrEqual(recorded - uncertainMicroUsd)
      }
      const identifiers = world.stripe.taken.map(({ identifier }) => identifier)
      expect(new Set(identifiers).size).toBe(identifiers.length)
    }),
    { seed: 3, numRuns: 300 },
  )
})

test('what Stripe may have is not sent again once it could not tell any more, and the rest goes on', async () => {
  const faults: StripeFault[] = ['takes_and_cuts']
  const world = createWorld(() => faults.shift() ?? 'none')
  const database = world.connect(() => 'none')
  await setStripeCustomer(database, 'acct_a', 'cus_0')
  world.record(0, 7)
  await world.run(database)
  world.clock.nowMs += 25 * HOUR_MS
  world.record(0, 5)
  for (let count = 0; count < 3; count++) await world.run(database)
  expect(world.stripe.taken.map(({ valueMicroUsd }) => valueMicroUsd)).toEqual([7, 5])
})

test('what surely did not get there is sent however late, to the customer of then, by month', async () => {
  const faults: StripeFault[] = Array.from({ length: 50 }, () => 'rate_limited' as const)
  const world = createWorld(() => faults.shift() ?? 'none')
  const database = world.connect(() => 'none')
  await setStripeCustomer(database, 'acct_a', 'cus_0')
  world.record(0, 7)
  world.clock.nowMs += 5 * HOUR_MS // into February
  world.record(0, 5)
  await world.run(database)
  await setStripeCustomer(database, 'acct_a', 'cus_1')
  world.record(0, 1)
  for (let count = 0; count < 60; count++) {
    world.clock.nowMs += 24 * HOUR_MS
    await world.run(database)
  }
  const taken = world.stripe.taken.map(({ customerId, valueMicroUsd }) => [
    customerId,
    valueMicroUsd,
  ])
  expect(taken.toSorted()).toEqual([
    ['cus_0', 5],
    ['cus_0', 7],
    ['cus_1', 1],
  ])
})

test('an account without a customer is not told of; what it used until it has one is, once', async () => {
  const world = createWorld(() => 'none')
  const database = world.connect(() => 'none')
  world.record(0, 7)
  await world.run(database)
  await setStripeCustomer(database, 'acct_a', null)
  await world.run(database)
  expect(world.stripe.taken).toEqual([])
  await setStripeCustomer(database, 'acct_a', 'cus_0')
  await world.run(database)
  await setStripeCustomer(database, 'acct_a', null)
  await setStripeCustomer(database, 'acct_a', 'cus_0')
  await world.run(database)
  expect(sumOf(world.stripe.taken)).toBe(7)
})
