import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { LoraModule, LoraWeights } from '../../../gpu-backend/adapters/lora-weights.ts'
import { mergeLora } from '../../../gpu-backend/adapters/merge-lora.ts'
import { digestMerge } from '../../../protocol/adapter-merge.ts'
import type { Digest } from '../../../protocol/digest.ts'
import { createSequence, cutInto, play, startRunner } from '../../support/play-sequences.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { createRandomModel } from '../../support/random-model.ts'
import { referenceLogits } from '../../support/reference-llama.ts'
import { type ReferenceMerge, referenceMerge } from '../../support/reference-merge.ts'

const DIGEST: Digest = `0x${'00'.repeat(32)}`
const source = createRandomModel({ seed: 1, form: 'f32' })
const { config } = source
const adapter = (seed: number, rank: number, linears?: readonly ('q' | 'v' | 'down')[]) =>
  createRandomAdapter({ seed, config, rank, ...(linears && { linears }) })

const merge = ({ method, density, members }: ReferenceMerge, digest: Digest = DIGEST) =>
  mergeLora(
    members.map(({ weights, weight }) => ({ weights, weightPpm: Math.round(weight * 1e6) })),
    { method, densityPpm: method === 'linear' ? null : Math.round(density * 1e6) },
    digest,
  )

/** Of the merged matrices [in, out] to the referee's. */
function worstDifference(merged: LoraWeights, expected: LoraWeights): number {
  expect([...merged.modules.keys()].sort()).toEqual([...expected.modules.keys()].sort())
  let worst = 0
  for (const [key, { rank, scale, a, b }] of merged.modules) {
    const dense = expected.modules.get(key)!
    const [inputs, outputs] = [a.length / rank, b.length / rank]
    for (let i = 0; i < inputs; i++) {
      for (let o = 0; o < outputs; o++) {
        let sum = 0
        for (let r = 0; r < rank; r++) sum += a[r * inputs + i]! * b[r * outputs + o]!
        worst = Math.max(worst, Math.abs(scale * sum - dense.b[i * outputs + o]!))
      }
    }
  }
  return worst
}

const MERGES: readonly (readonly [string, ReferenceMerge])[] = [
  [
    'linear, of different ranks and layers',
    {
      method: 'linear',
      density: 1,
      members: [
        { weights: adapter(1, 2), weight: 0.75 },
        { weights: adapter(2, 8, ['q', 'v']), weight: 1.5 },
        { weights: adapter(3, 1, ['down']), weight: 0.000001 },
      ],
    },
  ],
  ...([1, 0.5, 0.2] as const).map(
    (density) =>
      [
        `ties at ${density}`,
        {
          method: 'ties',
          density,
          members: [
            { weights: adapter(1, 4), weight: 1 },
            { weights: adapter(2, 4), weight: 0.4 },
            { weights: adapter(3, 4, ['q', 'down']), weight: 2 },
          ],
        },
      ] as const,
  ),
  [
    'dare_linear, of different ranks',
    {
      method: 'dare_linear',
      density: 0.7,
      members: [
        { weights: adapter(1, 4), weight: 1 },
        { weights: adapter(2, 8), weight: 0.5 },
      ],
    },
  ],
  [
    'dare_ties',
    {
      method: 'dare_ties',
      density: 0.5,
      members: [
        { weights: adapter(1, 4), weight: 1 },
        { weights: adapter(2, 4), weight: 0.5 },
      ],
    },
  ],
]

describe.each(MERGES)('%s', (_, given) => {
  test('gives the matrices of the referee', async () => {
    expect(worstDifference(await merge(given), referenceMerge(given))).toBeLessThan(1e-6)
  })

  test('makes the engine answer as the reference model with the merged weights', async () => {
    const runner = await startRunner(source)
    const merged = await merge(given)
    runner.loadAdapter(merged)
    const sequence = createSequence(source, { seed: 1, tokenCount: 40, adapter: merged })
    await play(runner, [sequence], cutInto(40, 16))
    const expected = referenceLogits(source, sequence.tokens, referenceMerge(given))
    let worst = 0
    for (const [end, logits] of sequence.logits) {
      logits.forEach((logit, i) => {
        worst = Math.max(worst, Math.abs(logit - expected[end - 1]![i]!))
      })
    }
    expect(sequence.logits.size).toBeGreaterThan(0)
    expect(worst).toBeLessThan(1e-4)
  })
})

const tiny = (
  a: readonly number[],
  b: readonly number[],
  scale: number,
  digest: Digest = DIGEST,
): LoraWeights => ({
  digest,
  sizeBytes: 0,
  modules: new Map<'0.q', LoraModule>([
    ['0.q', { rank: 1, scale, a: Float32Array.from(a), b: Float32Array.from(b) }],
  ]),
})

test('TIES worked by hand: trimmed, signs elected by the unweighted sum, those that agree averaged', async () => {
  // Half of each stays: [3, -2, 0, 0] and [-1, 0, 4, 0]; the sums elect +, -, +.
  const members = [
    { weights: tiny([3, -2, 1, -1], [1], 4), weight: 1 },
    { weights: tiny([-1, 0.5, 4, 0.5], [1], 1), weight: 9 },
  ]
  const { modules } = await merge({ method: 'ties', density: 0.5, members })
  expect([...modules.get('0.q')!.a]).toEqual([3 * 2, -2 * 2, 4 * 3, 0])
  expect(modules.get('0.q')!.scale).toBe(1)
})

test('of equal magnitudes the first stay, and exactly as many as the density says', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 1, maxLength: 40 }),
      fc.integer({ min: 1, max: 1_000_000 }),
      async (values, densityPpm) => {
        const weights = tiny(values, values, 1)
        const given = { method: 'ties' as const, density: densityPpm / 1e6 }
        const merged = await merge({ ...given, members: [{ weights, weight: 1 }] })
        const expected = referenceMerge({ ...given, members: [{ weights, weight: 1 }] })
        expect(worstDifference(merged, expected)).toBe(0)
      },
    ),
  )
})

describe('DARE', () => {
  const [length, density] = [200_000, 0.3]
  const ones = Float32Array.from({ length }, () => 1)
  const member = (digest: Digest) => ({ weights: tiny([...ones], [1], 1, digest), weight: 1 })
  const valuesOf = async (digest: Digest) =>
    (await merge({ method: 'dare_linear', density, members: [member(digest)] })).modules.get('0.q')!
      .a

  const bytes = (values: Float32Array) => Buffer.from(values.buffer)

  test('keeps its part, grown so that the mean stays', async () => {
    const values = await valuesOf(DIGEST)
    const kept = values.filter((value) => value !== 0)
    expect(new Set(kept)).toEqual(new Set([Math.fround(1 / density)]))
    // Five standard deviations of a binomial count.
    expect(Math.abs(kept.length - density * length)).toBeLessThan(5 * Math.sqrt(length * 0.21))
  })

  test('drops the same values whenever and beside whatever it is merged, and others of another adapter', async () => {
    const first = await valuesOf(DIGEST)
    expect(Buffer.compare(bytes(await valuesOf(DIGEST)), bytes(first))).toBe(0)
    const other: Digest = `0x${'11'.repeat(32)}`
    expect(Buffer.compare(bytes(await valuesOf(other)), bytes(first))).not.toBe(0)
    const both = await merge({
      method: 'dare_linear',
      density,
      members: [member(DIGEST), member(other)],
    })
    const begin = both.modules.get('0.q')!.a.slice(0, length)
    expect(Buffer.compare(bytes(begin), bytes(first))).toBe(0)
  })
})

test.each<[string, ReferenceMerge, string]>([
  [
    'ties of different ranks',
    {
      method: 'ties',
      density: 0.5,
      members: [
        { weights: adapter(1, 4), weight: 1 },
        { weights: adapter(2, 8), weight: 1 },
      ],
    },
    "'ties' needs equal ranks, and 0.q has 4 and 8",
  ],
  [
    'ranks of more than 256 together',
    {
      method: 'linear',
      density: 1,
      members: [
        { weights: adapter(1, 250), weight: 1 },
        { weights: adapter(2, 7), weight: 1 },
      ],
    },
    'their ranks in 0.q add up to 257',
  ],
  [
    'values that overflow',
    {
      method: 'dare_linear',
      density: 0.000001,
      members: [{ weights: tiny(new Array(4_000_000).fill(3e38), [1], 1), weight: 1 }],
    },
    'their values in 0.q are too large',
  ],
])('%s are refused', async (_, given, sentence) => {
  await expect(merge(given)).rejects.toMatchObject({
    code: 'adapter_rejected',
    param: 'tallygate.adapters',
    message: expect.stringContaining(sentence),
  })
})

test('the digest names method, density, adapters and weights', () => {
  const member = (digest: Digest, weightPpm: number) => ({ digest, owner: null, weightPpm })
  const one = member(`0x${'11'.repeat(32)}`, 1_000_000)
  const two = member(`0x${'22'.repeat(32)}`, 500_000)
  const rule = { method: 'ties', densityPpm: 200_000 } as const
  const digests = [
    digestMerge({ ...rule, members: [one, two] }),
    digestMerge({ ...rule, method: 'dare_ties', members: [one, two] }),
    digestMerge({ ...rule, densityPpm: 200_001, members: [one, two] }),
    digestMerge({ ...rule, members: [one] }),
    digestMerge({ ...rule, members: [one, { ...two, weightPpm: 500_001 }] }),
    digestMerge({ ...rule, members: [one, { ...two, digest: `0x${'33'.repeat(32)}` }] }),
  ]
  expect(new Set(digests).size).toBe(digests.length)
  const owned = { ...one, owner: `0x${'44'.repeat(20)}` as const }
  expect(digestMerge({ ...rule, members: [owned, two] })).toBe(digests[0])
})
