import { applyD1Migrations } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import * as fc from 'fast-check'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { TIERS } from '../../../protocol/backend.ts'
import { shareForTier } from '../../../worker/access/tier.ts'
import {
  admitOne,
  composeAdmit,
  composeSettlement,
  createTestAccount,
  stopClock,
} from '../support/account-fixture.ts'

fc.configureGlobal({ seed: 1 })

beforeAll(() => applyD1Migrations(env.DB, env.MIGRATIONS))
beforeEach(() => {
  stopClock()
})

it('serves by the tier of the key, or by a lower one that is asked for, never by a higher one', async () => {
  for (const keyTier of TIERS) {
    const account = await createTestAccount({}, { tier: keyTier })
    const { key } = account
    expect(await account.stub().admit(composeAdmit(key))).toMatchObject({ tier: keyTier })
    for (const tier of TIERS) {
      const isHigher = TIERS.indexOf(tier) < TIERS.indexOf(keyTier)
      const expected = isHigher
        ? { outcome: 'tier_not_allowed', keyTier }
        : { outcome: 'admitted', tier }
      const request = composeAdmit(key, { tier })
      expect(await account.stub().admit(request)).toMatchObject(expected)
      await account.evict()
      // The same admission, whose answer was lost.
      expect(await account.stub().admit(request)).toMatchObject(expected)
    }
  }
})

it('sheds the lowest tier first as the parallel requests of an account are used up', async () => {
  const account = await createTestAccount(
    { maxConcurrentRequests: 8, tierPercents: { standard: 75, batch: 50 } },
    { tier: 'interactive' },
  )
  const admit = (tier: (typeof TIERS)[number]) =>
    account.stub().admit(composeAdmit(account.key, { tier }))
  const first = await admitOne(account, { tier: 'batch' })
  for (let count = 0; count < 3; count++) await admitOne(account, { tier: 'interactive' })
  const crowded = { outcome: 'too_many_at_once', scope: 'account', model: null }
  expect(await admit('batch')).toEqual({ ...crowded, limit: 4, tier: 'batch' })
  for (let count = 0; count < 2; count++) await admitOne(account, { tier: 'standard' })
  expect(await admit('standard')).toMatchObject({ limit: 6, tier: 'standard' })
  for (let count = 0; count < 2; count++) await admitOne(account)
  expect(await admit('interactive')).toEqual({ ...crowded, limit: 8 })
  await account.stub().settle(composeSettlement(first))
  expect(await admit('standard')).toMatchObject({ limit: 6, tier: 'standard' })
  await admitOne(account)
})

it('leaves every tier a place in an idle account, and a more urgent one no fewer', () =>
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.integer({ min: 1, max: 100 }),
      fc.integer({ min: 1, max: 100 }),
      (limit, one, other) => {
        const percents = { standard: Math.max(one, other), batch: Math.min(one, other) }
        const shares = TIERS.map((tier) => shareForTier(limit, tier, percents))
        expect(shares[0]).toBe(limit)
        expect(shares.at(-1)).toBeGreaterThanOrEqual(1)
        expect(shares.toSorted((a, b) => b - a)).toEqual(shares)
      },
    ),
  ))
