import * as fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Address, ZERO_DIGEST } from '../../protocol/digest.ts'
import {
  checkSplit,
  type FeeToSplit,
  hashSplitRule,
  SPLIT_RULES,
  type SplitRule,
  splitFee,
  splitRuleSchema,
} from '../../protocol/fee-split.ts'
import { CREDIT_ROLES, type Credit } from '../../protocol/usage-leaf.ts'
import { merges } from '../support/batch-entries.ts'

fc.configureGlobal({ seed: 1 })

const rule = SPLIT_RULES[1]!

const address = (index: number): Address => `0x${index.toString(16).padStart(40, '0')}`

const PAYEES = { platform: address(1), backend: address(2), modelOwner: address(3) }

const fees: fc.Arbitrary<FeeToSplit> = fc.record({
  feeMicroUsd: fc.oneof(fc.nat({ max: 20 }), fc.maxSafeNat()),
  rule: fc.constant(rule),
  payees: fc.record({
    platform: fc.nat({ max: 9 }).map(address),
    backend: fc.nat({ max: 9 }).map(address),
    modelOwner: fc.nat({ max: 9 }).map(address),
    adapterOwner: fc.option(fc.nat({ max: 9 }).map(address)),
  }),
  contributors: fc.array(
    fc.record({
      payee: fc.nat({ max: 30 }).map(address),
      weightPpm: fc.integer({ min: 0, max: 1_000_000 }),
    }),
    { maxLength: 64 },
  ),
})

const totalOf = (credits: readonly Credit[], pick: (credit: Credit) => number) =>
  credits.reduce((sum, credit) => sum + BigInt(pick(credit)), 0n)

const ppmOf = (credits: readonly Credit[], role: Credit['role']) =>
  credits.filter((credit) => credit.role === role).reduce((sum, credit) => sum + credit.ppm, 0)

describe('splitFee', () => {
  it('divides every fee to the last unit, without a negative or an empty part', () =>
    fc.assert(
      fc.property(fees, (fee) => {
        const credits = splitFee(fee)
        expect(totalOf(credits, (credit) => credit.ppm)).toBe(1_000_000n)
        expect(totalOf(credits, (credit) => credit.amountMicroUsd)).toBe(BigInt(fee.feeMicroUsd))
        for (const credit of credits) {
          expect(credit.amountMicroUsd).toBeGreaterThanOrEqual(0)
          expect(credit.ppm).toBeGreaterThan(0)
        }
        expect(checkSplit(credits, fee.feeMicroUsd, rule)).toEqual({ outcome: 'ok' })
      }),
    ))

  it('divides the part of merged adapters by their weights, and any other division is wrong', () =>
    fc.assert(
      fc.property(fees, merges, fc.nat(), (given, merge, at) => {
        const fee = { ...given, rule: SPLIT_RULES[2]!, merge }
        const credits = splitFee(fee)
        expect(totalOf(credits, (credit) => credit.ppm)).toBe(1_000_000n)
        expect(totalOf(credits, (credit) => credit.amountMicroUsd)).toBe(BigInt(fee.feeMicroUsd))
        const check = (list: readonly Credit[]) =>
          checkSplit(list, fee.feeMicroUsd, fee.rule, merge).outcome
        expect(check(credits)).toBe('ok')
        expect(splitFee({ ...fee, merge: { members: merge.members.toReversed() } })).toEqual(
          credits,
        )
        const owners = credits.filter(({ role }) => role === 'adapter_owner')
        const part = ppmOf(credits, 'adapter_owner') + ppmOf(credits, 'model_owner')
        const weight = merge.members.reduce((sum, member) => sum + member.weightPpm, 0)
        for (const { payee, ppm } of owners) {
          const own = merge.members.filter(({ owner }) => owner === payee)
          const exact = (part * own.reduce((sum, member) => sum + member.weightPpm, 0)) / weight
          expect(Math.abs(ppm - exact)).toBeLessThan(1)
        }
        const line = owners[at % owners.length]
        if (!line || owners.length === 1) return
        const forged = credits.map((credit) =>
          credit === line ? { ...credit, payee: address(at) } : credit,
        )
        expect(check(forged)).toBe('wrong')
        expect(check(credits.filter((credit) => credit !== line))).toBe('wrong')
      }),
    ))

  it('gives all of it to the model owner under the rule that knew no merges', () => {
    const members = [{ digest: ZERO_DIGEST, owner: address(7), weightPpm: 1 }]
    const payees = { ...PAYEES, adapterOwner: null }
    const fee = { feeMicroUsd: 100, rule, payees, contributors: [], merge: { members } }
    expect(ppmOf(splitFee(fee), 'model_owner')).toBe(700_000)
    expect(ppmOf(splitFee({ ...fee, rule: SPLIT_RULES[2]! }), 'adapter_owner')).toBe(700_000)
  })

  it('does not depend on the order of the contributors, nor on how one is spread over lines', () =>
    fc.assert(
      fc.property(fees, (fee) => {
        const reversed = { ...fee, contributors: fee.contributors.toReversed() }
        expect(splitFee(reversed)).toEqual(splitFee(fee))
        const halves = fee.contributors.flatMap(({ payee, weightPpm }) => [
          { payee, weightPpm: Math.floor(weightPpm / 2) },
          { payee, weightPpm: Math.ceil(weightPpm / 2) },
        ])
        expect(splitFee({ ...fee, contributors: halves })).toEqual(splitFee(fee))
      }),
    ))

  it('is never off by a whole unit from the exact share', () =>
    fc.assert(
      fc.property(fees, (fee) => {
        for (const { ppm, amountMicroUsd } of splitFee(fee)) {
          const error = BigInt(amountMicroUsd) * 1_000_000n - BigInt(fee.feeMicroUsd) * BigInt(ppm)
          expect(error < 1_000_000n && error > -1_000_000n).toBe(true)
        }
      }),
    ))

  const payees = {
    platform: address(1),
    backend: address(2),
    modelOwner: address(3),
    adapterOwner: address(4),
  }
  const contributors = [
    { payee: address(6), weightPpm: 250_000 },
    { payee: address(5), weightPpm: 750_000 },
  ]

  it('follows the published rule with an adapter and contributors', () => {
    expect(splitFee({ feeMicroUsd: 1_000, rule, payees, contributors })).toEqual([
      { payee: address(1), role: 'platform', ppm: 100_000, amountMicroUsd: 100 },
      { payee: address(2), role: 'backend', ppm: 200_000, amountMicroUsd: 200 },
      { payee: address(4), role: 'adapter_owner', ppm: 200_000, amountMicroUsd: 200 },
      { payee: address(5), role: 'contributor', ppm: 375_000, amountMicroUsd: 375 },
      { payee: address(6), role: 'contributor', ppm: 125_000, amountMicroUsd: 125 },
    ])
  })

  it.each([
    ['nobody is credited', payees, [], { adapter_owner: 700_000 }],
    ['the base model answered', { ...payees, adapterOwner: null }, [], { model_owner: 700_000 }],
    [
      'data is credited without an adapter owner',
      { ...payees, adapterOwner: null },
      contributors,
      { model_owner: 200_000, contributor: 500_000 },
    ],
  ])('sends unclaimed shares where the rule says when %s', (_, who, whose, expected) => {
    const credits = splitFee({ feeMicroUsd: 7, rule, payees: who, contributors: whose })
    const totals = Object.fromEntries(CREDIT_ROLES.map((role) => [role, ppmOf(credits, role)]))
    expect(totals).toEqual({
      platform: 100_000,
      backend: 200_000,
      model_owner: 0,
      adapter_owner: 0,
      contributor: 0,
      ...expected,
    })
  })

  it('gives a single unit to the largest share, and nothing of nothing', () => {
    const one = splitFee({ feeMicroUsd: 1, rule, payees, contributors: [] })
    expect(one.map((credit) => credit.amountMicroUsd)).toEqual([0, 0, 1])
    const none = splitFee({ feeMicroUsd: 0, rule, payees, contributors })
    expect(totalOf(none, (credit) => credit.amountMicroUsd)).toBe(0n)
  })

  it('breaks equal remainders by the lower payee address, then by role', () => {
    const equal: SplitRule = {
      ...rule,
      sharesPpm: { platform: 250_000, backend: 250_000, adapterOwner: 500_000, contributors: 0 },
    }
    const amounts = (platform: number, backend: number) =>
      splitFee({
        feeMicroUsd: 2,
        rule: equal,
        payees: { ...payees, platform: address(platform), backend: address(backend) },
        contributors: [],
      }).map((credit) => credit.amountMicroUsd)
    expect(amounts(8, 7)).toEqual([0, 1, 1])
    expect(amounts(7, 7)).toEqual([1, 0, 1])
  })

  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses a fee of %s', (feeMicroUsd) => {
    expect(() => splitFee({ feeMicroUsd, rule, payees, contributors: [] })).toThrow(RangeError)
  })

  it.each([-1, 0.5])('refuses a weight of %s', (weightPpm) => {
    const odd = [{ payee: address(5), weightPpm }]
    expect(() => splitFee({ feeMicroUsd: 1, rule, payees, contributors: odd })).toThrow('weightPpm')
  })
})

describe('checkSplit', () => {
  const fee: FeeToSplit = {
    feeMicroUsd: 1_003,
    rule,
    payees: {
      platform: address(1),
      backend: address(2),
      modelOwner: address(3),
      adapterOwner: address(4),
    },
    contributors: [
      { payee: address(5), weightPpm: 1 },
      { payee: address(6), weightPpm: 2 },
    ],
  }
  const credits = splitFee(fee)
  const edit = (index: number, change: Partial<Credit>) =>
    credits.map((credit, at) => (at === index ? { ...credit, ...change } : credit))

  it.each<[string, readonly Credit[], string]>([
    ['an amount is changed', edit(0, { amountMicroUsd: 99 }), 'line 0 has 99 micro-USD'],
    ['a role takes more', edit(0, { ppm: 100_001 }), 'platform has 100001 ppm'],
    ['the platform is missing', credits.slice(1), 'platform has 0 ppm'],
    ['a contributor is dropped', credits.slice(0, -1), 'contributor has'],
    ['the order is another', credits.toReversed(), 'line 1 is out of order'],
    ['a line is repeated', [credits[0]!, ...credits], 'line 1 is out of order or repeated'],
    ['an empty line is added', [{ ...credits[0]!, ppm: 0 }], 'line 0 has no part'],
    [
      'two are paid as the platform',
      [
        { ...credits[0]!, ppm: 50_000 },
        { ...credits[0]!, payee: address(9), ppm: 50_000 },
        ...credits.slice(1),
      ],
      'platform is paid more than once',
    ],
    ['nobody is paid', [], 'platform has 0 ppm'],
  ])('names what is wrong when %s', (_, list, reason) => {
    expect(checkSplit(list, fee.feeMicroUsd, rule)).toEqual({
      outcome: 'wrong',
      reason: expect.stringContaining(reason),
    })
  })

  it('refuses the list for any other fee', () =>
    fc.assert(
      fc.property(fc.maxSafeNat(), (feeMicroUsd) => {
        fc.pre(feeMicroUsd !== fee.feeMicroUsd)
        expect(checkSplit(credits, feeMicroUsd, rule).outcome).toBe('wrong')
      }),
    ))
})

describe('split rules', () => {
  it('are valid documents that stand under their version', () => {
    for (const [version, document] of Object.entries(SPLIT_RULES)) {
      expect(splitRuleSchema.parse(document)).toEqual(document)
      expect(document.version).toBe(Number(version))
    }
  })

  it('keep their content address, in whatever order their keys come', () => {
    const hash = '0x3a39dc7a5840003d26f350509156c6d910cdf858d7b958a86a3eeefa33586916'
    expect(hashSplitRule(rule)).toBe(hash)
    const shuffled = Object.fromEntries(Object.entries(rule).toReversed())
    expect(hashSplitRule(splitRuleSchema.parse(shuffled))).toBe(hash)
  })

  it('are refused when the shares do not add up', () => {
    const sharesPpm = { ...rule.sharesPpm, platform: 100_001 }
    expect(splitRuleSchema.safeParse({ ...rule, sharesPpm }).error?.message).toContain(
      'must add up to 1,000,000',
    )
  })
})
