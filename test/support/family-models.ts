import type { TinyModelOptions } from './tiny-model.ts'

/** A tiny model in the forms that exist of it. */
interface FamilyModel {
  readonly folder: TinyModelOptions
  readonly gguf: TinyModelOptions
}

const both = (options: TinyModelOptions): FamilyModel => ({ folder: options, gguf: options })

/** RoPE scaling of Llama 3.1, over a context that a test can fill. */
export const LLAMA3 = {
  kind: 'llama3',
  factor: 8,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  originalContextLength: 64,
} as const

/** As llama.cpp's converter makes them of {@link LLAMA3} at base 10,000 and heads of 16 (float32). */
const LLAMA3_FACTORS = [1, 1.2939759, 7.667385, 8, 8, 8, 8, 8]

/** YaRN, likewise. */
export const YARN = {
  kind: 'yarn',
  factor: 4,
  originalContextLength: 128,
  betaFast: 32,
  betaSlow: 1,
  isTruncated: true,
  magnitude: 0.1 * Math.log(4) + 1,
} as const

/** One model of each family and RoPE scaling, for `test/vectors/families.json`. */
export const FAMILY_MODELS: Readonly<Record<string, FamilyModel>> = {
  llama: both({ seed: 21, isHeadTied: false }),
  'llama-llama3': {
    folder: { seed: 22, config: { ropeScaling: LLAMA3 } },
    gguf: { seed: 22, config: { ropeScaling: { kind: 'factors', factors: LLAMA3_FACTORS } } },
  },
  'llama-linear': both({ seed: 23, config: { ropeScaling: { kind: 'linear', factor: 2.5 } } }),
  mistral: both({ seed: 24, family: 'mistral', isHeadTied: false }),
  qwen2: both({ seed: 25, family: 'qwen2' }),
  'qwen2-yarn': both({ seed: 26, family: 'qwen2', config: { ropeScaling: YARN } }),
  qwen3: both({ seed: 27, family: 'qwen3', config: { ropeTheta: 1_000_000 } }),
}
