import { describe, expect, test } from 'vitest'
import type { ModelConfig, ModelSource } from '../../../gpu-backend/model/model-source.ts'
import { LLAMA3, YARN } from '../../support/family-models.ts'
import {
  createSequence,
  cutInto,
  play,
  playRandomly,
  startRunner,
  worstError,
} from '../../support/play-sequences.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { createRandomModel } from '../../support/random-model.ts'

/** What float32 may lose against the float64 referee. */
const FLOAT32_TOLERANCE = 1e-4

const FAMILIES: Record<string, Partial<ModelConfig>> = {
  'Llama 3': { ropeTheta: 500_000, ropeScaling: LLAMA3 },
  'Llama with linear scaling': { ropeScaling: { kind: 'linear', factor: 2.5 } },
  'Llama of a GGUF with rope_freqs': {
    ropeScaling: { kind: 'factors', factors: [1, 1, 1, 1.5, 2, 4, 8, 8] },
  },
  'Mistral with heads wider than the hidden size': { headSize: 32, ropeTheta: 1e6 },
  Qwen2: { hasQkvBias: true, ropeTheta: 1e6 },
  'Qwen2 with YaRN': { hasQkvBias: true, ropeScaling: YARN },
  'YaRN that is not truncated': { ropeScaling: { ...YARN, isTruncated: false, magnitude: 0.8 } },
  Qwen3: { hasQkNorm: true, headSize: 32, ropeTheta: 1e6 },
}

describe('agrees with the reference in float32', () => {
  test.each(Object.entries(FAMILIES))('%s, base and adapters side by side', async (_, config) => {
    const source = createRandomModel({ seed: 11, form: 'f32', config })
    const runner = await startRunner(source)
    const adapter = createRandomAdapter({ seed: 1, config: source.config, rank: 8 })
    runner.loadAdapter(adapter)
    const sequences = [null, adapter, null].map((own, i) =>
      createSequence(source, { seed: i, tokenCount: 140, adapter: own }),
    )
    await playRandomly(runner, sequences, 'families')
    for (const sequence of sequences) {
      expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
    }
    await runner.close()
  })

  test.each(['q4', 'q8'] as const)('biases and head norms beside %s weights', async (form) => {
    const config = { hasQkvBias: true, hasQkNorm: true }
    const source = createRandomModel({ seed: 12, form, config })
    const runner = await startRunner(source, { accuracyLevel: 0 })
    const sequence = createSequence(source, { seed: 1, tokenCount: 40 })
    await play(runner, [sequence], cutInto(40, 20))
    expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
    await runner.close()
  })
})

describe('the comparison notices', () => {
  const whole = createRandomModel({
    seed: 13,
    form: 'f32',
    config: { hasQkvBias: true, hasQkNorm: true, ropeScaling: LLAMA3 },
  })
  const without = (config: Partial<ModelConfig>): ModelSource => ({
    ...whole,
    config: { ...whole.config, ...config },
  })

  test.each<[string, ModelSource]>([
    ['a forgotten bias of q', forgetBias('q')],
    ['a forgotten bias of k', forgetBias('k')],
    ['a forgotten bias of v', forgetBias('v')],
    ['a forgotten norm of q', { ...whole, headNorm: forgetNorm('q') }],
    ['a forgotten norm of k', { ...whole, headNorm: forgetNorm('k') }],
    ['a forgotten RoPE scaling', without({ ropeScaling: { kind: 'none' } })],
    ['another RoPE scaling', without({ ropeScaling: { ...LLAMA3, lowFreqFactor: 2 } })],
  ])('%s', async (_, mutant) => {
    const runner = await startRunner(mutant)
    const sequence = createSequence(whole, { seed: 1, tokenCount: 60 })
    await play(runner, [sequence], cutInto(60, 30))
    expect(worstError(whole, sequence)).toBeGreaterThan(10 * FLOAT32_TOLERANCE)
    await runner.close()
  })

  function forgetBias(forgotten: string): ModelSource {
    return {
      ...whole,
      bias: (layer, name) => {
        const values = whole.bias(layer, name)
        return name === forgotten && values ? values.map(() => 0) : values
      },
    }
  }

  function forgetNorm(forgotten: string): ModelSource['headNorm'] {
    return (layer, which) => (which === forgotten ? null : whole.headNorm(layer, which))
  }
})
