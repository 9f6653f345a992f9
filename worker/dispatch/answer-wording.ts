import type { ApiError } from '../errors.ts'
import type { JsonObject } from './answer-parts.ts'

/**
 * Words an answer of chat completions anew, for an operation that is translated onto them. One a
 * request; a stream calls `begin`, `read`, `prepare` and `end` or `fail`, a body `readBody`, `prepare` and `body`.
 */
export interface AnswerWording {
  /** What the stream begins with, before the backend has answered. */
  readonly begin: () => string
  /** What to say for a chunk of the backend's stream; empty: nothing. */
  readonly read: (chunk: JsonObject) => string
  readonly readBody: (body: JsonObject) => void
  /** The answer is whole, and about to be settled: what is promised with it is made durable. Never throws. */
  readonly prepare: (meter: JsonObject) => Promise<void>
  /** The rest of the stream. */
  readonly end: () => string
  readonly body: () => string
  /** The rest of a stream that failed. */
  readonly fail: (error: ApiError) => string
}
