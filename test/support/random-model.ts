import { createHash } from 'node:crypto'
import {
  type LinearWeights,
  linearSizes,
  type ModelConfig,
  type ModelSource,
} from '../../gpu-backend/model/model-source.ts'

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
  normEpsilon: 1e-5,
}

export interface RandomModelOptions {
  readonly seed: number
  readonly form: LinearWeights['form']
  readonly config?: Partial<ModelConfig>
}

/** A random Llama-shaped model in memory, the same for the same options. Its vocabulary is bytes. */
export function createRandomModel({ seed, form, config = {} }: RandomModelOptions): ModelSource {
  const shape = { ...TINY_CONFIG, ...config }
  const sizes = linearSizes(shape)
  const linear = (name: string, inputs: number, outputs: number, spread: number) =>
    randomLinear(createRandom(`${seed}.${name}`), form, { inputs, outputs, spread })
  const norm = (name: string) => {
    const random = createRandom(`${seed}.${name}`)
    return Float32Array.from({ length: shape.hiddenSize }, () => 1 + 0.2 * random.normal())
  }
  const { hiddenSize, vocabSize } = shape
  return {
    name: `random-${seed}`,
    config: shape,
    tokenizer: {
      tokenizerJson: {},
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
    embedding: () => linear('embedding', hiddenSize, vocabSize, 1),
    head: () => linear('head', hiddenSize, vocabSize, 0.25),
  }
}

function randomLinear(
  random: Random,
  form: LinearWeights['form'],
  { inputs, outputs, spread }: { inputs: number; outputs: number; spread: number },
): LinearWeights {
  const blockCount = (inputs * outputs) / 32
  const floats = (length: number, next: () => number) => Float32Array.from({ length }, next)
  switch (form) {
    case 'f32':
      return { form, values: floats(inputs * outputs, () => spread * random.normal()) }
    case 'q4': {
      const scales = floats(blockCount, () => (spread * (0.5 + random.uniform())) / 4)
      return {
        form,
        quants: Uint8Array.from({ length: blockCount * 16 }, () => random.uniform() * 256),
        scales,
        mins: scales.map((scale) => -scale * (7 + random.uniform())),
      }
    }
    case 'q8':
      return {
        form,
        quants: Int8Array.from({ length: blockCount * 32 }, () => random.uniform() * 256 - 128),
        scales: floats(blockCount, () => (spread * (0.5 + random.uniform())) / 64),
      }
  }
}

export interface Random {
  /** In [0, 1). */
  readonly uniform: () => number
  readonly normal: () => number
  /** A whole number below `end`. */
  readonly below: (end: number) => number
}

/** mulberry32, seeded by a name. */
export function createRandom(name: string): Random {
  let state = createHash('sha256').update(name).digest().readUInt32LE(0)
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
  return { uniform, normal, below: (end) => Math.floor(uniform() * end) }
}
