/**
 * How rotary embeddings are stretched over a longer context than the model was first trained on.
 * The fields are those of Hugging Face's `rope_scaling`; `factors` is GGUF's `rope_freqs` tensor.
 */
export type RopeScaling =
  | { readonly kind: 'none' }
  | { readonly kind: 'linear'; readonly factor: number }
  | {
      readonly kind: 'llama3'
      readonly factor: number
      readonly lowFreqFactor: number
      readonly highFreqFactor: number
      readonly originalContextLength: number
    }
  | {
      readonly kind: 'yarn'
      readonly factor: number
      readonly originalContextLength: number
      readonly betaFast: number
      readonly betaSlow: number
      /** Whether the ramp begins and ends at whole pairs. */
      readonly isTruncated: boolean
      /** What cosines and sines are multiplied by. */
      readonly magnitude: number
    }
  /** [D/2]: what each frequency is divided by. */
  | { readonly kind: 'factors'; readonly factors: readonly number[] }

export interface RopeFrequencies {
  /** [D/2] radians a position by which elements i and i + D/2 of a head turn. */
  readonly frequencies: Float64Array
  /** What cosines and sines are multiplied by. */
  readonly magnitude: number
}

/** The part of a `ModelConfig` that says how positions turn heads. */
interface RopeShape {
  readonly headSize: number
  readonly ropeTheta: number
  readonly ropeScaling: RopeScaling
}

export function ropeFrequencies({ headSize, ropeTheta, ropeScaling }: RopeShape): RopeFrequencies {
  const half = headSize / 2
  const base = Float64Array.from({ length: half }, (_, i) => ropeTheta ** (-i / half))
  const scale = createScale(ropeScaling, { headSize, ropeTheta })
  return {
    frequencies: base.map((frequency, i) => frequency * scale(frequency, i)),
    magnitude: ropeScaling.kind === 'yarn' ? ropeScaling.magnitude : 1,
  }
}

/** YaRN's magnitude where a config gives none (Peng et al., 2023, eq. 22). */
export function yarnMagnitude(factor: number, multiplier = 1): number {
  return factor <= 1 ? 1 : 0.1 * multiplier * Math.log(factor) + 1
}

/** What the frequency of pair i is multiplied by. */
function createScale(
  scaling: RopeScaling,
  shape: Omit<RopeShape, 'ropeScaling'>,
): (frequency: number, i: number) => number {
  switch (scaling.kind) {
    case 'none':
      return () => 1
    case 'linear':
      return () => 1 / scaling.factor
    case 'factors':
      return (_, i) => 1 / (scaling.factors[i] ?? 1)
    case 'llama3': {
      const { factor, lowFreqFactor, highFreqFactor, originalContextLength } = scaling
      return (frequency) => {
        const turns = (originalContextLength * frequency) / (2 * Math.PI)
        const kept = clampToUnit((turns - lowFreqFactor) / (highFreqFactor - lowFreqFactor))
        return kept + (1 - kept) / factor
      }
    }
    case 'yarn': {
      const { factor } = scaling
      const { low, high } = yarnRamp(scaling, shape)
      return (_, i) => {
        const stretched = clampToUnit((i - low) / (high - low))
        return 1 - stretched + stretched / factor
      }
    }
  }
}

/** Pairs up to `low` turn as before, from `high` on `factor` times slower. */
function yarnRamp(
  scaling: RopeScaling & { kind: 'yarn' },
  { headSize, ropeTheta }: Omit<RopeShape, 'ropeScaling'>,
): { low: number; high: number } {
  /** The pair that makes this many turns in the original context. */
  const pairOf = (turns: number) =>
    (headSize * Math.log(scaling.originalContextLength / (turns * 2 * Math.PI))) /
    (2 * Math.log(ropeTheta))
  const from = pairOf(scaling.betaFast)
  const to = pairOf(scaling.betaSlow)
  const low = Math.max(scaling.isTruncated ? Math.floor(from) : from, 0)
  const high = Math.min(scaling.isTruncated ? Math.ceil(to) : to, headSize - 1)
  return { low, high: low === high ? high + 0.001 : high }
}

function clampToUnit(value: number): number {
  return Math.min(1, Math.max(0, value))
}
