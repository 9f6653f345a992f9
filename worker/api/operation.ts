import type { MiddlewareHandler } from 'hono'
import type { z } from 'zod'
import type { ErrorCode } from '../errors.ts'
import type { AppEnv } from './app-context.ts'

/** Sections of the reference, in order. */
export const TAGS = {
  Generation: 'Text, structured answers, tool calls and embeddings, by the OpenAI API.',
  Models: 'What a key may use.',
  Adapters: 'The account’s own, which no other account sees or uses.',
  Account: 'What was used, what it cost, what is left, and the proofs.',
  Operation: 'What needs no key.',
  Administration: 'For the operator: accounts, keys, budgets, anchoring.',
} as const

/** One operation: its route, and what the OpenAPI document says of it. */
export interface Operation {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  /** As Hono spells it. */
  readonly path: string
  readonly handler: MiddlewareHandler<AppEnv>
  /** Whose key it wants; null: nobody's. */
  readonly key: 'api' | 'admin' | null
  readonly id: string
  readonly tag: keyof typeof TAGS
  readonly summary: string
  readonly description?: string
  /** What each parameter of the path is. */
  readonly parameters?: Readonly<Record<string, string>>
  readonly query?: z.ZodObject
  readonly body?: z.ZodType
  /** What may come as `multipart/form-data` instead, or must where there is no `body`. */
  readonly form?: z.ZodType
  /** The same request may be sent again with an `Idempotency-Key`. */
  readonly isIdempotent?: boolean
  readonly answer: Answer
  /** Beside those that any operation of its kind can end with. */
  readonly errors?: readonly ErrorCode[]
}

interface Answer {
  readonly status: 200 | 201
  readonly description: string
  /** Media type → what it holds; a string where JSON Schema has no words for it. */
  readonly content: Readonly<Record<string, z.ZodType | string>>
  /** Carries the `x-ratelimit-*` headers. */
  readonly hasRateHeaders?: boolean
}

/** An answer of JSON. */
export function jsonAnswer(
  schema: z.ZodType,
  description: string,
  more: Partial<Pick<Answer, 'status' | 'hasRateHeaders'>> = {},
): Answer {
  return { status: 200, description, content: { 'application/json': schema }, ...more }
}
