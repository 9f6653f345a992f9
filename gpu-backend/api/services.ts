import type { Context } from 'hono'
import type { Digest } from '../../protocol/digest.ts'
import type { AdapterRegistration, RegistrationFields } from '../adapters/adapter-folder.ts'
import type { AdapterRegistry } from '../adapters/adapter-registry.ts'
import type { EngineHandle } from '../engine-handle.ts'
import type { Log } from '../log.ts'
import type { Counter } from './counter.ts'
import type { ReportStore } from './report-store.ts'

/** Everything that the operations need, made once by the composition root. */
export interface Services {
  readonly engine: EngineHandle
  readonly model: ServedModel
  readonly adapters: AdapterRegistry
  /** What registering a folder of the adapters directory means. Throws `adapter_rejected`. */
  readonly planAdapter: (path: string, fields: RegistrationFields) => Promise<AdapterRegistration>
  readonly reports: ReportStore
  readonly counters: {
    /** Ends of requests that ran: `completed`, `cancelled`, `failed`. */
    readonly ends: Counter
    /** Error answers by their code. */
    readonly errors: Counter
  }
  readonly log: Log
  /** Bytes of a request body that are read before it is refused. */
  readonly maxBodyBytes: number
  /** What callers send as `authorization: Bearer …`; null: everyone may call. */
  readonly bearerToken: string | null
  /** Aborted when the server gives up on what still runs. */
  readonly shutdownSignal: AbortSignal
  readonly startedAtMs: number
  readonly now: () => number
  /** 64 uniform random bits. */
  readonly createSeed: () => bigint
  readonly createRequestId: () => string
}

/** The base model as the API presents it. */
export interface ServedModel {
  readonly id: string
  readonly digest: Digest
  /** Prompt and answer together, in tokens: the model's context, or the KV cache where that is smaller. */
  readonly contextTokens: number
  readonly vocabSize: number
  /** Tokens that end an answer. */
  readonly stopTokenIds: readonly number[]
  /** Requests that can run in one step: each may name another adapter. */
  readonly maxBatchSize: number
  /** A plain prompt, begun as the model wants it. Markers of the template in `text` stay text. */
  readonly encodeText: (text: string) => readonly number[]
  readonly decode: (tokens: readonly number[]) => string
  /** A conversation up to where the assistant's answer begins. Throws BackendError where the model has no template. */
  readonly encodeChat: (messages: readonly ChatMessage[]) => EncodedPrompt
}

export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant' | 'tool'
  readonly content: string
}

export interface EncodedPrompt {
  /** What the model is shown, template included. */
  readonly text: string
  readonly tokens: readonly number[]
}

/** What every handler gets of its request. */
export interface BackendEnv {
  readonly Variables: {
    readonly requestId: string
    /** Whose request it is, for fairness; one name for all who give none. */
    readonly tenant: string
  }
}

export type BackendContext = Context<BackendEnv>
