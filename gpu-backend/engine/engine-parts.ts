import type { TokenBytes } from '../decode/detokenizer.ts'
import type { OpenGrammar } from './answer-grammar.ts'
import type { EngineEvent } from './engine-port.ts'
import type { ModelRunner } from './model-runner.ts'
import type { EngineLimits } from './scheduler.ts'

/** What an engine is made of, handed in by the composition root. */
export interface EngineParts {
  readonly runner: ModelRunner
  readonly tokenBytes: TokenBytes
  /** Digests of the adapters that a request may name. Changed by the owner, between steps only. */
  readonly adapters: ReadonlySet<string>
  readonly limits: EngineLimits
  readonly modelDigest: string
  readonly prefixSharing: PrefixSharing
  readonly nowMs: () => number
  readonly emit: (event: EngineEvent) => void
  /** The cause of an `internal_error`, for the log. */
  readonly onFault: (error: unknown, requestIds: readonly string[]) => void
  /** Absent: a request with a grammar fails. */
  readonly openGrammar?: OpenGrammar
}

/** Who may find whose prompt in the cache. `nobody`: each request computes its own. */
export type PrefixSharing = 'tenant' | 'everyone' | 'nobody'
