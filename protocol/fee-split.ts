import { keccak256, stringToHex } from 'viem'
import { z } from 'zod'
import type { AdapterMerge } from './adapter-merge.ts'
import { type Address, type Digest, ZERO_ADDRESS } from './digest.ts'
import { CREDIT_ROLES, type Credit } from './usage-leaf.ts'

const PPM = 1_000_000

const sharePpmSchema = z.int().min(0).max(PPM)

/** A published rule by which a fee is divided. A rule never changes; a new one is a new version. */
export const splitRuleSchema = z.strictObject({
  version: z.int().min(1),
  /** Parts per million of the fee; they add up to 1,000,000. */
  sharesPpm: z
    .strictObject({
      platform: sharePpmSchema,
      backend: sharePpmSchema,
      adapterOwner: sharePpmSchema,
      contributors: sharePpmSchema,
    })
    .refine(
      (shares) => Object.values(shares).reduce((sum, share) => sum + share, 0) === PPM,
      'must add up to 1,000,000',
    ),
  /** Who gets the contributors' share of an answer that is supported by nobody's data. */
  withoutContributors: z.literal('adapter_owner'),
  /** Who stands in for the adapter owner where there is no adapter, or none that names an owner. */
  withoutAdapterOwner: z.literal('model_owner'),
  /**
   * How the adapter owner's part is divided where the adapter was merged of several; each part whose
   * adapter names no owner goes to the stand-in. Absent: the stand-in gets all of it.
   */
  mergedAdapters: z.literal('by_weight').optional(),
  /** How parts are made whole: largest remainder; equal remainders by payee address, then role. */
  rounding: z.literal('largest_remainder'),
})

export type SplitRule = Readonly<z.infer<typeof splitRuleSchema>>

/** The version that new requests are admitted with. */
export const CURRENT_SPLIT_VERSION = 2

/**
 * Every rule ever published, by version.
 *
 * Version 1: the platform gets 10 % of a fee, the backend's host 20 %, the adapter's owner 20 % and
 * the contributors 50 %, divided by their weights. Where nobody is credited, the contributors' 50 %
 * go to the adapter's owner. Where there is no adapter, or none that names an owner, the base
 * model's owner stands in for the adapter's owner in both.
 *
 * Version 2: the same, and of an adapter that was merged for the request the owners of its members
 * share the adapter owner's part by the members' weights.
 */
export const SPLIT_RULES: Readonly<Record<number, SplitRule>> = {
  1: {
    version: 1,
    sharesPpm: {
      platform: 100_000,
      backend: 200_000,
      adapterOwner: 200_000,
      contributors: 500_000,
    },
    withoutContributors: 'adapter_owner',
    withoutAdapterOwner: 'model_owner',
    rounding: 'largest_remainder',
  },
  2: {
    version: 2,
    sharesPpm: {
      platform: 100_000,
      backend: 200_000,
      adapterOwner: 200_000,
      contributors: 500_000,
    },
    withoutContributors: 'adapter_owner',
    withoutAdapterOwner: 'model_owner',
    mergedAdapters: 'by_weight',
    rounding: 'largest_remainder',
  },
}

/** The rule's content address: keccak256 of its JSON without blanks, keys in the schema's order. */
export function hashSplitRule(rule: SplitRule): Digest {
  return keccak256(stringToHex(JSON.stringify(splitRuleSchema.parse(rule))))
}

export interface FeeToSplit {
  /** A safe integer, 0 or more. */
  readonly feeMicroUsd: number
  readonly rule: SplitRule
  readonly payees: {
    readonly platform: Address
    readonly backend: Address
    readonly modelOwner: Address
    readonly adapterOwner: Address | null
  }
  /** What the adapter was merged of; absent or null: it was not, and `adapterOwner` says whose it is. */
  readonly merge?: Pick<AdapterMerge, 'members'> | null
  /** Weights count in proportion to their sum; one payee's weights are added up. */
  readonly contributors: readonly { readonly payee: Address; readonly weightPpm: number }[]
}

/**
 * Divides a fee. The parts per million add up to exactly 1,000,000 and the amounts to exactly the
 * fee; parts of zero are left out. In the order of the roles, contributors by payee address, so
 * the result does not depend on the order of `contributors`.
 */
export function splitFee(fee: FeeToSplit): readonly Credit[] {
  const { rule, payees, merge } = fee
  const contributors = sumByPayee(fee.contributors)
  const hasContributors = contributors.length > 0
  const totals = roleTotals(rule, {
    hasContributors,
    hasAdapterOwner: payees.adapterOwner !== null,
  })
  const contributorPpm = apportion(totals.contributor, contributors)
  const parts = [
    { payee: payees.platform, role: 'platform', weight: totals.platform },
    { payee: payees.backend, role: 'backend', weight: totals.backend },
    ...(merge && rule.mergedAdapters
      ? divideOwnersPart(rule, { merge, hasContributors, modelOwner: payees.modelOwner })
      : [
          { payee: payees.modelOwner, role: 'model_owner' as const, weight: totals.model_owner },
          // A missing adapter owner has a total of zero, so the stand-in address is dropped below.
          {
            payee: payees.adapterOwner ?? payees.modelOwner,
            role: 'adapter_owner' as const,
            weight: totals.adapter_owner,
          },
        ]),
    ...contributors.map((part, index) => ({ ...part, weight: contributorPpm[index] ?? 0 })),
  ] satisfies Part[]
  const paid = parts.filter((part) => part.weight > 0)
  const amounts = apportion(fee.feeMicroUsd, paid)
  return paid.map(({ payee, role, weight }, index) => ({
    payee,
    role,
    ppm: weight,
    amountMicroUsd: amounts[index] ?? 0,
  }))
}

export type SplitCheck =
  | { readonly outcome: 'ok' }
  | { readonly outcome: 'wrong'; readonly reason: string }

/**
 * Whether a published credit list follows the rule: every amount is recomputed from the parts per
 * million and the fee, every role's total from the rule, and the lines of the owners of a merge from
 * its members. Who the other payees are, and how contributors were weighed against each other, is not
 * the rule's to say.
 */
export function checkSplit(
  credits: readonly Credit[],
  feeMicroUsd: number,
  rule: SplitRule,
  merge: Pick<AdapterMerge, 'members'> | null = null,
): SplitCheck {
  const wrong = (reason: string): SplitCheck => ({ outcome: 'wrong', reason })

  for (const [index, credit] of credits.entries()) {
    const previous = credits[index - 1]
    if (previous !== undefined && compareLines(previous, credit) >= 0)
      return wrong(`line ${index} is out of order or repeated`)
    if (credit.ppm === 0) return wrong(`line ${index} has no part and must be left out`)
  }

  const has = (role: Credit['role']) => credits.some((credit) => credit.role === role)
  const owners = merge && rule.mergedAdapters ? listOwners(credits, rule, merge) : null
  const expected = roleTotals(rule, {
    hasContributors: has('contributor'),
    hasAdapterOwner: has('adapter_owner'),
  })
  for (const role of CREDIT_ROLES) {
    if (owners && (role === 'model_owner' || role === 'adapter_owner')) continue
    const lines = credits.filter((credit) => credit.role === role)
    const totalPpm = lines.reduce((sum, line) => sum + line.ppm, 0)
    if (totalPpm !== expected[role])
      return wrong(`${role} has ${totalPpm} ppm where the rule gives ${expected[role]}`)
    if (role !== 'contributor' && lines.length > 1) return wrong(`${role} is paid more than once`)
  }

  if (owners?.claimed !== owners?.expected)
    return wrong(`the owners have ${owners?.claimed} where the merge gives ${owners?.expected}`)

  const parts = credits.map(({ payee, role, ppm }) => ({ payee, role, weight: ppm }))
  for (const [index, amount] of apportion(feeMicroUsd, parts).entries()) {
    const claimed = credits[index]?.amountMicroUsd
    if (claimed !== amount)
      return wrong(`line ${index} has ${claimed} micro-USD where the rule gives ${amount}`)
  }
  return { outcome: 'ok' }
}

/** The lines of a merge's owners as they are, and as its members' weights give them. */
function listOwners(
  credits: readonly Credit[],
  rule: SplitRule,
  merge: Pick<AdapterMerge, 'members'>,
): { readonly claimed: string; readonly expected: string } {
  const describe = (lines: readonly Part[]) =>
    lines.map(({ payee, role, weight }) => `${role} ${payee} ${weight} ppm`).join(', ')
  const owners = credits.filter(({ role }) => role === 'model_owner' || role === 'adapter_owner')
  const expected = divideOwnersPart(rule, {
    merge,
    hasContributors: credits.some(({ role }) => role === 'contributor'),
    modelOwner: owners.find(({ role }) => role === 'model_owner')?.payee ?? ZERO_ADDRESS,
  })
  return {
    claimed: describe(owners.map(({ payee, role, ppm }) => ({ payee, role, weight: ppm }))),
    expected: describe(expected.filter(({ weight }) => weight > 0)),
  }
}

/** The adapter owner's part by the members' weights, in parts per million of the fee. */
function divideOwnersPart(
  rule: SplitRule,
  merged: {
    readonly merge: Pick<AdapterMerge, 'members'>
    readonly hasContributors: boolean
    readonly modelOwner: Address
  },
): readonly Part[] {
  const { adapter_owner: total } = roleTotals(rule, { ...merged, hasAdapterOwner: true })
  const owners = sumParts(
    merged.merge.members.map(({ owner, weightPpm: weight }) =>
      owner === null
        ? { payee: merged.modelOwner, role: 'model_owner', weight }
        : { payee: owner, role: 'adapter_owner', weight },
    ),
  )
  const ppm = apportion(total, owners)
  return owners.map((owner, index) => ({ ...owner, weight: ppm[index] ?? 0 }))
}

/** What each role gets of a fee, in parts per million. */
function roleTotals(
  { sharesPpm }: SplitRule,
  present: { readonly hasContributors: boolean; readonly hasAdapterOwner: boolean },
): Record<Credit['role'], number> {
  const owner = sharesPpm.adapterOwner + (present.hasContributors ? 0 : sharesPpm.contributors)
  return {
    platform: sharesPpm.platform,
    backend: sharesPpm.backend,
    model_owner: present.hasAdapterOwner ? 0 : owner,
    adapter_owner: present.hasAdapterOwner ? owner : 0,
    contributor: present.hasContributors ? sharesPpm.contributors : 0,
  }
}

interface Part {
  readonly payee: Address
  readonly role: Credit['role']
  readonly weight: number
}

function sumByPayee(contributors: FeeToSplit['contributors']): readonly Part[] {
  for (const { weightPpm } of contributors) requireWhole('weightPpm', weightPpm)
  return sumParts(
    contributors.map(({ payee, weightPpm }) => ({ payee, role: 'contributor', weight: weightPpm })),
  )
}

/** One part a payee and role, in the order of a credit list; none of weight zero. */
function sumParts(parts: readonly Part[]): readonly Part[] {
  const sums = new Map<string, Part>()
  for (const { payee, role, weight } of parts) {
    const key = `${role} ${payee}`
    sums.set(key, { payee, role, weight: weight + (sums.get(key)?.weight ?? 0) })
  }
  return [...sums.values()].filter(({ weight }) => weight > 0).sort(compareLines)
}

/**
 * Divides a whole number by weights: each part is rounded down, and the units left over go one each
 * to the largest remainders, equal ones by payee address, then role. Sums are exact.
 */
function apportion(total: number, parts: readonly Part[]): number[] {
  requireWhole('total', total)
  const weightSum = parts.reduce((sum, part) => sum + BigInt(part.weight), 0n)
  if (weightSum === 0n) return []
  const shares = parts.map((part, index) => {
    const product = BigInt(total) * BigInt(part.weight)
    return { part, index, whole: product / weightSum, remainder: product % weightSum }
  })
  const result = shares.map((share) => Number(share.whole))
  const left = total - result.reduce((sum, whole) => sum + whole, 0)
  const byRemainder = shares.toSorted(
    (a, b) =>
      Number(b.remainder > a.remainder) - Number(b.remainder < a.remainder) ||
      compareText(a.part.payee, b.part.payee) ||
      compareRoles(a.part, b.part),
  )
  for (const { index, whole } of byRemainder.slice(0, left)) result[index] = Number(whole) + 1
  return result
}

/** The order of a credit list. */
function compareLines(a: Omit<Part, 'weight'>, b: Omit<Part, 'weight'>): number {
  return compareRoles(a, b) || compareText(a.payee, b.payee)
}

function compareRoles(a: { role: Credit['role'] }, b: { role: Credit['role'] }): number {
  return CREDIT_ROLES.indexOf(a.role) - CREDIT_ROLES.indexOf(b.role)
}

function compareText(a: string, b: string): number {
  return Number(a > b) - Number(a < b)
}

function requireWhole(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new RangeError(`${name} must be a whole number of 0 or more, not ${value}`)
}
