import type { Digest } from '../../protocol/digest.ts'
import type { EngineHandle } from '../engine-handle.ts'
import type { LoraWeights } from './lora-weights.ts'

/** Which adapters the engine holds, by content: the same content under two ids is loaded once. */
export interface AdapterResidency {
  /** Loads the content unless it is there; each hold is given back by one `release`. */
  readonly hold: (weights: LoraWeights) => Promise<void>
  /** The last release unloads. */
  readonly release: (digest: Digest) => Promise<void>
}

export function createAdapterResidency(engine: EngineHandle): AdapterResidency {
  const held = new Map<Digest, { holdCount: number; readonly loaded: Promise<void> }>()
  const unloads = new Map<Digest, Promise<void>>()

  const release = async (digest: Digest) => {
    const entry = held.get(digest)
    if (!entry) throw new Error('an adapter was released that nobody held')
    entry.holdCount -= 1
    if (entry.holdCount > 0) return
    held.delete(digest)
    const unload = engine.unloadAdapter(digest).finally(() => unloads.delete(digest))
    unloads.set(digest, unload)
    await unload
  }

  const load = async (weights: LoraWeights) => {
    await unloads.get(weights.digest)?.catch(() => undefined) // its caller is told of the failure
    await engine.loadAdapter(weights)
  }

  const hold = async (weights: LoraWeights) => {
    const entry = held.get(weights.digest) ?? { holdCount: 0, loaded: load(weights) }
    held.set(weights.digest, entry)
    entry.holdCount += 1
    try {
      await entry.loaded
    } catch (error) {
      if (held.get(weights.digest) === entry) held.delete(weights.digest)
      throw error
    }
  }

  return { hold, release }
}
