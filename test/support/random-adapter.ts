import { createHash } from 'node:crypto'
import type { LoraModule, LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'
import {
  LINEAR_NAMES,
  type LinearName,
  linearSizes,
  type ModelConfig,
} from '../../gpu-backend/model/model-source.ts'
import { createRandom, gaussians } from './random.ts'
import { seedOf } from './random-model.ts'

export interface RandomAdapterOptions {
  readonly seed: number
  readonly config: ModelConfig
  readonly rank: number
  readonly linears?: readonly LinearName[]
}

/** A random adapter whose effect is of the size of the layers' own outputs. */
export function createRandomAdapter(options: RandomAdapterOptions): LoraWeights {
  const { seed, config, rank, linears = LINEAR_NAMES } = options
  const random = createRandom(seedOf(`adapter.${seed}`))
  const sizes = linearSizes(config)
  const modules = new Map<`${number}.${LinearName}`, LoraModule>()
  let sizeBytes = 0
  for (let layer = 0; layer < config.layerCount; layer++) {
    for (const linear of linears) {
      const [inputs, outputs] = sizes[linear]
      const a = gaussians(random, rank * inputs, 1 / Math.sqrt(inputs))
      const b = gaussians(random, rank * outputs, 0.5 / Math.sqrt(rank))
      modules.set(`${layer}.${linear}`, { rank, scale: 0.5 + random(), a, b })
      sizeBytes += a.byteLength + b.byteLength
    }
  }
  const digest = createHash('sha256').update(`adapter.${seed}.${rank}.${linears}`).digest('hex')
  return { digest: `0x${digest}`, sizeBytes, modules }
}
