import type { LoraWeights } from './adapters/lora-weights.ts'
import type { EngineEvent, EngineRequest, EngineStats } from './engine/engine-port.ts'

/** The engine as the HTTP side sees it, over whatever carries it (a worker thread, or a direct call in tests). */
export interface EngineHandle {
  /** Events of one request until `finish`, `cancelled` or `error`; always ends with exactly one of them. Returning early cancels. */
  readonly generate: (request: EngineRequest, signal: AbortSignal) => AsyncIterable<EngineEvent>
  /** The same of several requests in their order, which are accepted or refused as `overloaded` together. */
  readonly generateTogether: (
    requests: readonly EngineRequest[],
    signal: AbortSignal,
  ) => readonly AsyncIterable<EngineEvent>[]
  /** Resolves when the adapter can be named in requests; its buffers are moved, not copied. */
  readonly loadAdapter: (weights: LoraWeights) => Promise<void>
  /** The caller makes sure that no request names it any more. */
  readonly unloadAdapter: (digest: string) => Promise<void>
  readonly stats: () => Promise<EngineStats>
  readonly close: () => Promise<void>
}
