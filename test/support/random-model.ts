import { createHash } from 'node:crypto'
import {
  type LinearWeights,
  linearSizes,
  type ModelConfig,
  type ModelSource,
} from '../../gpu-backend/model/model-source.ts'
import { createRandom, gaussians } from './random.ts'

/** The smallest shape in which everything happens: grouped heads, several layers, blocks of 32. */
export const TINY_CONFIG: ModelConfig = {
  layerCount: 2,
  hiddenSize: 64,
  headCount: 4,
  kvHeadCount: 2,
  headSize: 16,
  ffnSize: 128,
  vocabSize: 300,
  contextLength: 512,
  ropeTheta: 10_000,
  ropeScaling: { kind: 'none' },
  normEpsilon: 1e-5,
  hasQkvBias: false,
  hasQkNorm: false,
}

export interface RandomModelOptions {
  readonly seed: number
  readonly form: LinearWeights['form']
  readonly config?: Partial<ModelConfig>
}

/** A random Llama-shaped model in memory, the same for the same options. It has no tokenizer. */
export function createRandomModel({ seed, form, config = {} }: RandomModelOptions): ModelSource {
  const shape = { ...TINY_CONFIG, ...config }
  const sizes = linearSizes(shape)
  const linear = (name: string, inputs: number, outputs: number, spread: number) =>
    randomLinear(createRandom(seedOf(`${seed}.${name}`)), form, { inputs, outputs, spread })
  const norm = (name: string, size = shape.hiddenSize) =>
    gaussians(createRandom(seedOf(`${seed}.${name}`)), size, 0.2).map((x) => 1 + x)
  const { hiddenSize, vocabSize } = shape
  return {
    name: `random-${seed}`,
    config: shape,
    tokenizer: {
      vocabulary: { kind: 'byteLevel', tokenizerJson: {} },
      chatTemplate: null,
      bosToken: null,
      eosToken: null,
      eosTokenIds: [0],
      addBos: false,
    },
    digest: `0x${createHash('sha256')
      .update(JSON.stringify([seed, form, shape]))
      .digest('hex')}`,
    linear: (layer, name) => {
      const [inputs, outputs] = sizes[name]
      return linear(`${layer}.${name}`, inputs, outputs, 1 / Math.sqrt(inputs))
    },
    norm: (layer, which) => norm(`${layer}.${which}`),
    finalNorm: () => norm('final'),
    bias: (layer, name) =>
      shape.hasQkvBias
        ? gaussians(createRandom(seedOf(`${seed}.${layer}.${name}Bias`)), sizes[name][1], 0.5)
        : null,
    headNorm: (layer, which) =>
      shape.hasQkNorm ? norm(`${layer}.${which}Norm`, shape.headSize) : null,
    embedding: () => {
      const shape = { inputs: hiddenSize, outputs: vocabSize, spread: 1 }
      const tableForm = form === 'rotated8' ? 'q8' : form
      return randomLinear(createRandom(seedOf(`${seed}.embedding`)), tableForm, shape)
    },
    head: () => linear('head', hiddenSize, vocabSize, 0.25),
  }
}

function randomLinear(
  random: () => number,
  form: LinearWeights['form'],
  shape: { readonly inputs: number; readonly outputs: number; readonly spread: number },
): LinearWeights {
  const { inputs, outputs, spread } = shape
  const size = inputs * outputs
  const scales = () => Float32Array.from({ length: size / 32 }, () => spread * (0.5 + random()))
  switch (form) {
    case 'f32':
      return { form, values: gaussians(random, size, spread) }
    case 'q4': {
      const steps = scales().map((scale) => scale / 4)
      return {
        form,
        quants: Uint8Array.from({ length: size / 2 }, () => random() * 256),
        scales: steps,
        mins: steps.map((step) => -step * (7 + random())),
      }
    }
    case 'q8':
      return {
        form,
        quants: Int8Array.from({ length: size }, () => random() * 256 - 128),
        scales: scales().map((scale) => scale / 64),
      }
    case 'rotated8':
      return {
        form,
        quants: Int8Array.from({ length: size }, () => random() * 254 - 127),
        scales: Float32Array.from({ length: outputs }, () => (spread * (0.5 + random())) / 64),
      }
  }
}

/** A seed for `createRandom` that a text names. */
export function seedOf(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32LE(0)
}
