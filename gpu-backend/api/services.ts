import type { Context } from 'hono'
import type { Tier } from '../../protocol/backend.ts'
import type { AdapterRegistry } from '../adapters/adapter-registry.ts'
import type { AdapterIntake, AdapterStats } from '../adapters/create-adapters.ts'
import type { DatanetStore } from '../attribution/datanet-store.ts'
import type { EngineHandle } from '../engine-handle.ts'
import type { Log } from '../log.ts'
import type { Counter } from './counter.ts'
import type { ReportStore } from './report-store.ts'
import type { ServedModel } from './served-model.ts'

/** Everything that the operations need, made once by the composition root. */
export interface Services {
  readonly engine: EngineHandle
  readonly model: ServedModel
  readonly adapters: AdapterRegistry
  readonly adapterIntake: AdapterIntake
  readonly adapterStats: () => AdapterStats
  /** Null: there is no store. */
  readonly datanets: DatanetStore | null
  readonly reports: ReportStore
  /** Where a request waits for its turn; null: it does not. */
  readonly findQueuePosition: (requestId: string) => Promise<number | null>
  readonly counters: {
    /** Ends of requests that ran: `completed`, `cancelled`, `failed`. */
    readonly ends: Counter
    /** Error answers by their code. */
    readonly errors: Counter
  }
  readonly log: Log
  /** Answers that one request may ask for: they wait together. */
  readonly maxChoiceCount: number
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

/** What every handler gets of its request. */
export interface BackendEnv {
  readonly Variables: {
    readonly requestId: string
    /** Whose request it is, for fairness; one name for all who give none. */
    readonly tenant: string
    readonly tier: Tier
  }
}

export type BackendContext = Context<BackendEnv>
