import type { Context } from 'hono'
import type { Tier } from '../../protocol/backend.ts'
import type { Env } from '../bindings.ts'
import type { Services } from '../services.ts'
import type { TraceContext } from '../telemetry/trace-context.ts'

/** Who calls, as the key itself says; the account's object decides whether the key still holds. */
interface Caller {
  readonly accountId: string
  /** SHA-256 of the key, lower-case hex. */
  readonly keyHash: string
}

/** What every handler finds on its context. */
export interface AppEnv {
  Bindings: Env
  Variables: {
    /** Our id of the request; its answer carries it as `x-request-id`. */
    requestId: string
    startedAtMs: number
    trace: TraceContext
    /** Headers of the answer, whether it is a success or an error; names in lower case. */
    answerHeaders: Map<string, string>
    services: Services
    /** Set by `requireApiKey` before its handlers run; missing elsewhere. */
    caller: Caller
    /** What a request for text was admitted as; missing before. */
    tier: Tier
    /** The relay writes the request's log line when the answer is through. */
    isRelayed: boolean
  }
}

export type AppContext = Context<AppEnv>
