import fc from 'fast-check'
import { expect, test } from 'vitest'
import { drawUniform } from '../../../gpu-backend/decode/philox.ts'
import { createSampleHistory, createSampler } from '../../../gpu-backend/decode/sampler.ts'
import type { SamplingParams } from '../../../gpu-backend/engine/engine-port.ts'
import { GREEDY } from '../../support/engine-request.ts'

const VOCAB = 40

const paramsArbitrary: fc.Arbitrary<SamplingParams> = fc.record({
  temperature: fc.oneof(fc.constant(0), fc.double({ min: 0.01, max: 2, noNaN: true })),
  topP: fc.oneof(fc.constant(1), fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
  topK: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: VOCAB + 5 })),
  minP: fc.oneof(fc.constant(0), fc.double({ min: 0, max: 1, noNaN: true })),
  presencePenalty: fc.oneof(fc.constant(0), fc.double({ min: -2, max: 2, noNaN: true })),
  frequencyPenalty: fc.oneof(fc.constant(0), fc.double({ min: -2, max: 2, noNaN: true })),
  repetitionPenalty: fc.oneof(fc.constant(1), fc.double({ min: 0.5, max: 2, noNaN: true })),
  logitBias: fc.array(
    fc.tuple(fc.nat(VOCAB - 1), fc.double({ min: -100, max: 100, noNaN: true })),
    { maxLength: 3 },
  ),
  seed: fc.tuple(fc.nat(0xffffffff), fc.nat(0xffffffff)),
})

/** The published order of operations with everything sorted and nothing clever. */
function sampleNaively(
  logits: Float32Array,
  params: SamplingParams,
  prompt: readonly number[],
  answer: readonly number[],
): number {
  const scores = Float32Array.from(logits)
  for (const [id, bias] of params.logitBias) scores[id] = scores[id]! + bias
  for (const id of new Set([...prompt, ...answer])) {
    const score = scores[id]!
    const penalty = params.repetitionPenalty
    scores[id] = score > 0 ? score / penalty : score * penalty
  }
  for (const id of new Set(answer)) {
    const count = answer.filter((token) => token === id).length
    scores[id] = scores[id]! - params.presencePenalty - params.frequencyPenalty * count
  }
  const ranked = [...scores]
    .map((score, id) => ({ id, score }))
    .sort((left, right) => right.score - left.score || left.id - right.id)
  const highest = ranked[0]!.score
  if (params.temperature === 0) return ranked[0]!.id
  let kept = ranked
    .map(({ id, score }) => ({ id, weight: Math.exp((score - highest) / params.temperature) }))
    .filter(({ weight }) => weight >= params.minP)
  if (params.topK > 0) kept = kept.slice(0, params.topK)
  const mass = kept.reduce((sum, { weight }) => sum + weight, 0)
  let passed = 0
  kept = kept.filter(({ weight }, index) => {
    const isKept = index === 0 || passed < params.topP * mass
    passed += weight
    return isKept
  })
  kept.sort((left, right) => left.id - right.id)
  const keptMass = kept.reduce((sum, { weight }) => sum + weight, 0)
  const target = drawUniform(params.seed, answer.length) * keptMass
  let sum = 0
  for (const { id, weight } of kept) {
    sum += weight
    if (sum > target) return id
  }
  return kept.at(-1)!.id
}

test('draws what a plain implementation that sorts the vocabulary draws', () => {
  const logit = fc.oneof(
    fc.integer({ min: -4, max: 4 }),
    fc.integer().map((bits) => bits / 2 ** 27),
  )
  const logitRow = fc.array(logit, { minLength: VOCAB, maxLength: VOCAB })
  const prompt = fc.array(fc.nat(VOCAB - 1), { maxLength: 5 })
  const sampler = createSampler(VOCAB)
  fc.assert(
    fc.property(
      paramsArbitrary,
      prompt,
      fc.array(logitRow, { minLength: 1, maxLength: 4 }),
      (params, promptTokens, rows) => {
        const history = createSampleHistory(params, promptTokens)
        const answer: number[] = []
        for (const row of rows) {
          const logits = Float32Array.from(row)
          const expected = sampleNaively(logits, params, promptTokens, answer)
          const token = sampler.sample(logits, history)
          expect(token).toBe(expected)
          expect(logits).toEqual(Float32Array.from(row))
          answer.push(token)
        }
      },
    ),
    { numRuns: 500, seed: 3 },
  )
})

test('draws tokens as often as their probabilities say', () => {
  const probabilities = [0.5, 0.25, 0.15, 0.1]
  const logits = Float32Array.from(probabilities, Math.log)
  const sampler = createSampler(4)
  const history = createSampleHistory({ ...GREEDY, temperature: 1 }, [])
  const counts = [0, 0, 0, 0]
  for (let draw = 0; draw < 10_000; draw++) counts[sampler.sample(logits, history)]!++
  for (const [id, probability] of probabilities.entries()) {
    expect(counts[id]! / 10_000).toBeCloseTo(probability, 1.8)
  }
})

test('refuses logits that hold NaN or nothing possible, and says which', () => {
  const sampler = createSampler(3)
  const sample = (...logits: number[]) =>
    sampler.sample(Float32Array.from(logits), createSampleHistory(GREEDY, []))
  expect(() => sample(1, Number.NaN, 0)).toThrow('logit 1 is NaN')
  expect(() => sample(-Infinity, -Infinity, -Infinity)).toThrow('no finite maximum')
  expect(() => sample(1, Infinity, 0)).toThrow('no finite maximum')
  expect(() => sample(1, 2)).toThrow('a row of logits has 2 values')
  expect(sample(-Infinity, 5, -Infinity)).toBe(1)
})
