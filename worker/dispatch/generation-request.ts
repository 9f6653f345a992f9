import type { MergePlan } from '../../protocol/adapter-merge.ts'
import type { Tier } from '../../protocol/backend.ts'
import type { Endpoint } from '../ledger/usage-record.ts'
import type { JsonObject } from './answer-parts.ts'
import type { AnswerWording } from './answer-wording.ts'
import type { Degradation } from './concession.ts'
import { joinBytes } from './join-bytes.ts'

/** What the gateway must know of a request for text or embeddings; the rest of the body is the backend's affair. */
export interface GenerationRequest {
  readonly endpoint: Endpoint
  readonly model: string
  /** Adapters to be merged over the model for this request; null: none. */
  readonly merge: MergePlan | null
  /** As the caller asked for it; absent: that of its key. */
  readonly tier?: Tier
  /** Absent: as it was asked for, or not at all. */
  readonly degradation?: Degradation
  readonly isStream: boolean
  /** The caller asked for the usage chunk of a stream. */
  readonly wantsUsage: boolean
  /** The caller asked who contributed to the answer. */
  readonly wantsAttribution: boolean
  /** How many answers come back: prompts times `n`. */
  readonly choiceCount: number
  /** How many answers are computed: `best_of` where it exceeds `n`. */
  readonly computedChoiceCount: number
  /** The most tokens of one answer that the caller asked for; null where it set no limit. */
  readonly maxCompletionTokens: number | null
  /** Never less than the tokens of the prompt. */
  readonly promptTokenBound: number
  /** What goes upstream. */
  readonly body: JsonObject
  readonly bodyBytes: Uint8Array
  /** What the caller sent, where that is something else. */
  readonly receivedBytes?: Uint8Array
  /** Absent: the answer passes as the backend words it. */
  readonly wording?: AnswerWording
}

/** A chat template writes a few tokens around each message, … */
const TEMPLATE_TOKENS_A_MESSAGE = 16
/** … and many add a system prompt of their own. */
const TEMPLATE_TOKENS = 128

/** What templates, or the backend in their place, say of how tools are called. */
const TOOL_PROMPT_TOKENS = 1_024

/** What tools can add to the bound: they are written anew, with more white space than the caller's. */
export function boundToolTokens(tools: unknown): number {
  if (!Array.isArray(tools) || tools.length === 0) return 0
  return TOOL_PROMPT_TOKENS + JSON.stringify(tools).length
}

/**
 * An upper bound of the prompt's tokens: they are at most a text's bytes and one, and a text in the body has
 * quotes besides; everything that a template can render stands in the body.
 */
export function boundPromptTokens(bodySizeBytes: number, messageCount: number): number {
  return bodySizeBytes + TEMPLATE_TOKENS + TEMPLATE_TOKENS_A_MESSAGE * messageCount
}

/** The answer's limit where neither the caller nor the model sets one; sent upstream, so that it holds. */
export const DEFAULT_MAX_COMPLETION_TOKENS = 4_096

/** The most tokens that a request can use with a model. */
export function boundTokens(
  request: GenerationRequest,
  maxModelLength: number | undefined,
): { readonly promptTokens: number; readonly completionTokens: number } {
  const contextLength = maxModelLength ?? Number.POSITIVE_INFINITY
  const perChoice = request.maxCompletionTokens ?? maxModelLength ?? DEFAULT_MAX_COMPLETION_TOKENS
  return {
    promptTokens: Math.min(request.promptTokenBound, contextLength * request.choiceCount),
    completionTokens: Math.min(perChoice, contextLength) * request.computedChoiceCount,
  }
}

/**
 * The body as it goes upstream: the caller's own bytes, unless something must be said that the caller
 * did not say. A stream always asks for its usage chunk; where no limit of the answer is known
 * to the backend either, the one that was reserved is named.
 */
export function encodeUpstreamBody(
  request: GenerationRequest,
  maxModelLength: number | undefined,
): Uint8Array | string {
  const changes: Record<string, unknown> = {}
  if (request.isStream && !request.wantsUsage) {
    const options = request.body.stream_options
    changes.stream_options = {
      ...(typeof options === 'object' && options),
      include_usage: true,
    }
  }
  if (request.maxCompletionTokens === null && maxModelLength === undefined) {
    changes.max_tokens = DEFAULT_MAX_COMPLETION_TOKENS
  }
  const names = Object.keys(changes)
  if (names.length === 0) return request.bodyBytes
  return names.some((name) => name in request.body)
    ? JSON.stringify({ ...request.body, ...changes })
    : prependFields(request.bodyBytes, changes)
}

const OPENING_BRACE = 0x7b

/** The object's own bytes with further fields before its own, of which it has at least one. */
function prependFields(objectBytes: Uint8Array, fields: object): Uint8Array {
  const rest = objectBytes.subarray(objectBytes.indexOf(OPENING_BRACE) + 1)
  const head = new TextEncoder().encode(`${JSON.stringify(fields).slice(0, -1)},`)
  return joinBytes([head, rest])
}
