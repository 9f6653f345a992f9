import fc from 'fast-check'
import {
  type AdapterMerge,
  digestMerge,
  MERGE_METHODS,
  type MergeMember,
  orderMembers,
} from '../../protocol/adapter-merge.ts'
import type { BatchEntry } from '../../protocol/batch-payload.ts'
import type { Address, Digest } from '../../protocol/digest.ts'
import { CREDIT_ROLES, hashCredits } from '../../protocol/usage-leaf.ts'

const hex = (length: number) =>
  fc.uint8Array({ minLength: length, maxLength: length }).map((bytes) => toHex(bytes))

export const digests: fc.Arbitrary<Digest> = hex(32)
const addresses: fc.Arbitrary<Address> = hex(20)
const uint32s = fc.nat({ max: 0xffff_ffff })

const members: fc.Arbitrary<MergeMember> = fc.record({
  digest: digests,
  owner: fc.option(addresses),
  weightPpm: fc.integer({ min: 1, max: 10_000_000 }),
})

export const merges: fc.Arbitrary<AdapterMerge> = fc
  .record({
    method: fc.constantFrom(...MERGE_METHODS),
    density: fc.integer({ min: 1, max: 1_000_000 }),
    members: fc.array(members, { minLength: 1, maxLength: 8 }).map(orderMembers),
  })
  .map(({ method, density, ...rest }) => ({
    method,
    densityPpm: method === 'linear' ? null : density,
    ...rest,
  }))

/** Any leaf that the schema allows, with its credits; digests and payees repeat now and then. */
export const batchEntries: fc.Arbitrary<BatchEntry> = fc
  .record({
    requestId: fc.stringMatching(/^req_[0-9a-zA-Z]{1,59}$/),
    digests: fc.array(fc.oneof(digests, fc.constant(`0x${'0'.repeat(64)}` as const)), {
      minLength: 5,
      maxLength: 5,
    }),
    counts: fc.array(uint32s, { minLength: 5, maxLength: 5 }),
    completedAtMs: fc.maxSafeNat(),
    feeMicroUsd: fc.maxSafeNat(),
    credits: fc.array(
      fc.record({
        payee: fc.oneof(addresses, fc.constant(`0x${'1'.repeat(40)}` as const)),
        role: fc.constantFrom(...CREDIT_ROLES),
        ppm: fc.nat({ max: 1_000_000 }),
        amountMicroUsd: fc.maxSafeNat(),
      }),
      { maxLength: 6 },
    ),
    merge: fc.option(merges),
  })
  .map(({ requestId, digests: d, counts, completedAtMs, feeMicroUsd, credits, merge }) => ({
    credits,
    merge,
    leaf: {
      version: merge ? 2 : 1,
      requestId,
      accountCommitment: d[0]!,
      completedAtMs,
      modelDigest: d[1]!,
      adapterDigest: merge ? digestMerge(merge) : d[2]!,
      promptTokens: counts[0]!,
      cachedTokens: counts[1]!,
      completionTokens: counts[2]!,
      feeMicroUsd,
      priceVersion: Math.max(1, counts[3]!),
      splitVersion: Math.max(1, counts[4]!),
      attributionDigest: d[3]!,
      creditsHash: hashCredits(credits),
      contentCommitment: d[4]!,
    },
  }))

function toHex(bytes: Uint8Array): `0x${string}` {
  return `0x${Buffer.from(bytes).toString('hex')}`
}
