import fc from 'fast-check'
import { concatBytes } from 'viem'
import { describe, expect, it } from 'vitest'
import { digestMerge, type MergeMember } from '../../protocol/adapter-merge.ts'
import {
  type BatchEntry,
  decodeBatchPayload,
  encodeBatchPayload,
} from '../../protocol/batch-payload.ts'
import { hashCredits } from '../../protocol/usage-leaf.ts'
import { batchEntries } from '../support/batch-entries.ts'

const batches = fc.uniqueArray(batchEntries, {
  selector: (entry) => entry.leaf.requestId,
  maxLength: 12,
})

const [sample] = fc.sample(batchEntries, { numRuns: 1, seed: 7 })
const entry = sample!

describe('encodeBatchPayload', () => {
  it('decodes to what was encoded', () => {
    fc.assert(
      fc.property(batches, (entries) => {
        const decoded = decodeBatchPayload(encodeBatchPayload(entries))
        expect(decoded).toEqual({ outcome: 'decoded', entries })
      }),
      { seed: 1 },
    )
  })

  it('needs less than 150 bytes for the leaf of an answer with three contributors', () => {
    const payees = ['11', '22', '33', '44', '55', '66'].map(
      (byte) => `0x${byte.repeat(20)}` as const,
    )
    const credits = payees.map((payee, index) => ({
      payee,
      role: index < 3 ? (['platform', 'backend', 'adapter_owner'] as const)[index]! : 'contributor',
      ppm: 166_666,
      amountMicroUsd: 1_234,
    })) satisfies BatchEntry['credits']
    const entries = Array.from({ length: 1_000 }, (_, index): BatchEntry => {
      const requestId = `req_${String(index).padStart(24, '0')}`
      const contentCommitment = `0x${index.toString(16).padStart(64, '0')}` as const
      const counts = { promptTokens: 812, cachedTokens: 512, completionTokens: 300 }
      const common = { completedAtMs: 1_800_000_000_000 + index, feeMicroUsd: 7_404 }
      const versions = { version: 1, priceVersion: 1, splitVersion: 1 } as const
      const digests = {
        accountCommitment: `0x${(index % 20).toString(16).padStart(64, 'a')}`,
        modelDigest: `0x${'b'.repeat(64)}`,
        adapterDigest: `0x${'c'.repeat(64)}`,
        attributionDigest: `0x${'d'.repeat(64)}`,
      } as const
      const hashes = { creditsHash: hashCredits(credits), contentCommitment }
      return {
        leaf: { requestId, ...versions, ...counts, ...common, ...digests, ...hashes },
        credits,
        merge: null,
      }
    })
    expect(encodeBatchPayload(entries).length / entries.length).toBeLessThan(150)
  })

  it('refuses a leaf that does not commit to its merge', () => {
    const [method, members] = ['linear', [createMember('1')]] as const
    const merge = { method, densityPpm: null, members: [...members] }
    const leaf = { ...entry.leaf, version: 2 as const }
    const refused = [
      { ...entry, merge },
      { ...entry, leaf },
      { ...entry, leaf, merge },
      { ...entry, leaf: { ...entry.leaf, adapterDigest: digestMerge(merge) }, merge },
    ]
    for (const wrong of refused) {
      expect(() => encodeBatchPayload([wrong])).toThrow('does not commit to its merge')
    }
    const right = { ...entry, leaf: { ...leaf, adapterDigest: digestMerge(merge) }, merge }
    const payload = encodeBatchPayload([right])
    expect(decodeBatchPayload(payload)).toEqual({ outcome: 'decoded', entries: [right] })
    // The last bytes are the member's weight and that it names no owner.
    const other = Uint8Array.from(payload.with(payload.length - 2, 1))
    expect(decodeBatchPayload(other)).toMatchObject({
      outcome: 'malformed',
      reason: 'the adapter digest is not that of the merge',
    })
  })

  it('refuses a leaf that does not commit to its credits', () => {
    const leaf = { ...entry.leaf, creditsHash: entry.leaf.contentCommitment }
    expect(() => encodeBatchPayload([{ ...entry, leaf }])).toThrow('does not commit to its credits')
  })
})

describe('decodeBatchPayload', () => {
  it('reads no bytes as anything but what encodes to exactly them', () => {
    const damaged = fc
      .tuple(batches, fc.nat(), fc.nat({ max: 255 }), fc.nat({ max: 3 }))
      .map(([entries, at, byte, kind]) => {
        const payload = encodeBatchPayload(entries)
        const place = at % payload.length
        const [head, tail] = [payload.subarray(0, place), payload.subarray(place)]
        if (kind === 0) return head
        if (kind === 1) return concatBytes([head, Uint8Array.of(byte), tail])
        if (kind === 2) return concatBytes([head, tail.subarray(1)])
        return concatBytes([head, Uint8Array.of(byte), tail.subarray(1)])
      })
    const anything = fc.oneof(damaged, fc.uint8Array({ maxLength: 300 }))
    fc.assert(
      fc.property(anything, (payload) => {
        const decoded = decodeBatchPayload(payload)
        if (decoded.outcome === 'decoded') {
          expect(encodeBatchPayload(decoded.entries)).toEqual(payload)
        }
      }),
      { seed: 2, numRuns: 1_000 },
    )
  })

  const payload = encodeBatchPayload([entry])
  it.each([
    ['another format', Uint8Array.from(payload.with(3, 2)), 'not a batch payload of version 1'],
    ['an unknown leaf version', Uint8Array.from(payload.with(8, 3)), 'version: '],
    ['no merge', Uint8Array.from(payload.with(8, 2)), 'ends in the middle of a value'],
    ['a cut payload', payload.subarray(0, -1), 'ends in the middle of a value'],
    ['a longer payload', concatBytes([payload, Uint8Array.of(0)]), 'bytes after the last leaf'],
    ['a repeated leaf', repeatEntry(payload), 'spells out a known value again'],
    ['a wrong count', Uint8Array.from(payload.with(7, 2)), 'ends in the middle of a value'],
    ['a request id of other letters', Uint8Array.from(payload.with(10, 0x2d)), 'requestId: '],
  ])('names the fault of %s', (_, bytes, reason) => {
    expect(decodeBatchPayload(bytes)).toMatchObject({
      outcome: 'malformed',
      reason: expect.stringContaining(reason),
    })
  })

  it('refuses one request twice', () => {
    expect(decodeBatchPayload(encodeBatchPayload([entry, entry]))).toMatchObject({
      outcome: 'malformed',
      reason: `${entry.leaf.requestId} occurs twice`,
    })
  })
})

function createMember(digit: string): MergeMember {
  return { digest: `0x${digit.repeat(64)}`, owner: null, weightPpm: 1_000_000 }
}

function repeatEntry(payload: Uint8Array): Uint8Array {
  return concatBytes([Uint8Array.from(payload.with(7, 2)), payload.subarray(8)])
}
