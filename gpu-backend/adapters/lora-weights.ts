import type { Digest } from '../../protocol/digest.ts'
import type { LinearName } from '../model/model-source.ts'

/** One linear layer's part of an adapter: `y += scale · (x · Aᵀ) · B`. R is its rank. */
export interface LoraModule {
  readonly rank: number
  /** α/R, or α/√R for rsLoRA, with the patterns of the config applied. */
  readonly scale: number
  readonly a: Float32Array /* [R, in] */
  /** Transposed from PEFT's [out, R], so that adapters concatenate by rows. */
  readonly b: Float32Array /* [R, out] */
}

export type LoraModuleKey = `${number}.${LinearName}`

/** A validated adapter in memory, named by its content. Plain data: it crosses to the engine thread by transfer. */
export interface LoraWeights {
  readonly digest: Digest
  readonly sizeBytes: number
  /** By layer and linear, for example `3.q`; at least one. */
  readonly modules: ReadonlyMap<LoraModuleKey, LoraModule>
}
