import type { Context } from 'hono'
import type { Env } from '../env.ts'
import type { Services } from '../services.ts'

/** What every handler finds on its context. */
export interface AppEnv {
  Bindings: Env
  Variables: {
    /** Our id of the request; its answer carries it as `x-request-id`. */
    requestId: string
    startedAtMs: number
    services: Services
    /** Known once the request is authenticated; for the log. */
    accountId?: string
    /** The relay writes the request's log line when the answer is through. */
    isRelayed?: boolean
  }
}

export type AppContext = Context<AppEnv>
