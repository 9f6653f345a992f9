import type { Digest } from '../protocol/digest.ts'
import type { LoraWeights } from './adapters/lora-weights.ts'
import type { ModelRunnerOptions } from './compute/model-runner.ts'
import type { PrefixSharing } from './engine/engine-parts.ts'
import type { EngineEvent, EngineRequest, EngineStats } from './engine/engine-port.ts'
import type { EngineLimits } from './engine/scheduler.ts'
import type { ModelConfig, Precision, TokenizerSource } from './model/model-source.ts'

/** What the HTTP thread says to the engine thread. A `callId` is answered once, by `done` or `refused`. */
export type EngineCommand =
  /** Accepted or refused together. */
  | { readonly kind: 'submit'; readonly requests: readonly EngineRequest[] }
  | { readonly kind: 'cancel'; readonly id: string }
  | { readonly kind: 'stats'; readonly callId: number }
  | { readonly kind: 'load_adapter'; readonly callId: number; readonly weights: LoraWeights }
  | { readonly kind: 'unload_adapter'; readonly callId: number; readonly digest: string }
  /** Answered when every live request has ended; nothing is answered afterwards. */
  | { readonly kind: 'close'; readonly callId: number }

/** What the engine thread says to the HTTP thread. */
export type EngineReport =
  | { readonly kind: 'events'; readonly events: readonly EngineEvent[] }
  | { readonly kind: 'done'; readonly callId: number; readonly stats: EngineStats }
  | { readonly kind: 'refused'; readonly callId: number; readonly message: string }
  | { readonly kind: 'fault'; readonly fault: EngineFault }

/** Why requests ended with `internal_error`, for the log; never for the caller. */
export interface EngineFault {
  /** The stack of what was thrown. */
  readonly detail: string
  readonly requestIds: readonly string[]
}

/** What the engine thread is started with. */
export interface EngineThreadOptions {
  /** A GGUF file or a Hugging Face folder. */
  readonly modelPath: string
  readonly precision: Precision
  readonly runner: ModelRunnerOptions
  readonly limits: EngineLimits
  readonly prefixSharing: PrefixSharing
}

/** The first thing that the engine thread says. */
export type StartReport =
  | { readonly kind: 'ready'; readonly model: EngineModel }
  | { readonly kind: 'failed'; readonly message: string; readonly detail: string }

/** What the HTTP thread needs to know of the model that the engine thread opened. */
export interface EngineModel {
  readonly name: string
  readonly digest: Digest
  readonly config: ModelConfig
  readonly tokenizer: TokenizerSource
  /** Longest prompt and answer together: the model's context, or less where the KV cache is smaller. */
  readonly maxSequenceTokens: number
}

/** The part of a MessagePort (or Worker) that both sides need. */
export interface MessageChannelEnd<Incoming, Outgoing> {
  readonly postMessage: (message: Outgoing, transfer?: readonly ArrayBuffer[]) => void
  readonly on: (event: 'message', listener: (message: Incoming) => void) => unknown
}
