import type { Tier } from '../../protocol/backend.ts'

/** What crosses between the HTTP thread and the engine thread: token ids and text, never tensors of a step. */

export interface SamplingParams {
  /** 0: greedy. */
  readonly temperature: number
  readonly topP: number
  /** 0: off. */
  readonly topK: number
  readonly minP: number
  readonly presencePenalty: number
  readonly frequencyPenalty: number
  /** 1: off. */
  readonly repetitionPenalty: number
  /** Token id → bias added to its logit. */
  readonly logitBias: readonly (readonly [tokenId: number, bias: number])[]
  /** 64-bit seed as two uint32; the same request with the same seed gives the same answer, whatever runs beside it. */
  readonly seed: readonly [number, number]
}

export interface EngineRequest {
  /** Unique among live requests: the gateway's request id, plus `#i` for choice i of several. */
  readonly id: string
  readonly tenant: string
  readonly tier: Tier
  readonly promptTokens: readonly number[]
  /** Digest of a loaded adapter; null for the base model. */
  readonly adapter: string | null
  /** 0: nothing is sampled; the request is for its prompt's log probabilities or, with `embed`, its embedding. */
  readonly maxTokens: number
  readonly sampling: SamplingParams
  /** Up to 4; cut from the output. */
  readonly stop: readonly string[]
  /** Tokens that end the answer, never in its text. */
  readonly stopTokenIds: readonly number[]
  /** EBNF with a rule `root` that the answer must match, if it is not cut; null: it is free. */
  readonly grammar: string | null
  /** How many of the likeliest tokens are told beside each token of the answer; null: no log probabilities. */
  readonly topLogprobCount: number | null
  /** Whether the prompt's tokens have theirs told too, before the answer's first token. */
  readonly wantsPromptLogprobs: boolean
  /** Nothing is sampled: the request finishes with its prompt's embedding. */
  readonly embed?: boolean
}

/** Log probabilities by the model's own distribution: before temperature, penalties, bias and grammar. */
export interface TokenLogprob {
  readonly tokenId: number
  readonly logprob: number
  /** The likeliest tokens, likeliest first. */
  readonly top: readonly (readonly [tokenId: number, logprob: number])[]
}

/**
 * Of the tokens that an event adds, empty unless asked for: of the token itself, and in the first
 * event, where asked for, before it those of the prompt's tokens but the first, which follows nothing.
 */
type EventLogprobs = readonly TokenLogprob[]

export type FinishReason = 'stop' | 'length'

/** Counts that are billed. `cachedTokens` of the prompt's were found, not computed; `completionTokens` is every token sampled, an end-of-sequence token too. */
export interface EngineUsage {
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
}

export type EngineErrorCode =
  | 'overloaded'
  | 'context_length_exceeded'
  | 'adapter_missing'
  | 'internal_error'

export type EngineEvent =
  /** One sampled token that did not end the answer; `text` is '' while bytes or a possible stop string are held back. */
  | {
      readonly kind: 'token'
      readonly id: string
      readonly tokenId: number
      readonly text: string
      readonly logprobs: EventLogprobs
    }
  /** The end; `text` is what was still held back. */
  | {
      readonly kind: 'finish'
      readonly id: string
      readonly reason: FinishReason
      readonly text: string
      readonly logprobs: EventLogprobs
      readonly usage: EngineUsage
      /** [H] of a request with `embed`: the mean of its tokens' states after the final norm. */
      readonly embedding?: Float32Array
    }
  /** The sequence was dropped on `cancel`; what it had used until then. */
  | { readonly kind: 'cancelled'; readonly id: string; readonly usage: EngineUsage }
  | {
      readonly kind: 'error'
      readonly id: string
      readonly code: EngineErrorCode
      readonly message: string
      /** For `overloaded`: when a retry can succeed, by the queue's drain rate. */
      readonly retryAfterMs: number | null
      readonly usage: EngineUsage
    }

export interface EngineStats {
  readonly runningCount: number
  readonly waitingCount: number
  /** The first of those that wait, in the order of tier, age and arrival; turns between tenants may change it. */
  readonly waitingIds: readonly string[]
  readonly stepCount: number
  /** Prompt tokens computed or found, as they are billed. */
  readonly promptTokenCount: number
  readonly completionTokenCount: number
  /** Prompt tokens of the requests that were admitted, and how many of them the prefix cache had. */
  readonly prefixQueryTokenCount: number
  readonly prefixHitTokenCount: number
  /** How often a running request lost its memory to another. */
  readonly preemptionCount: number
  /** Held by running requests. */
  readonly kvUsedTokens: number
  /** Kept for later requests, given up as soon as running ones need it. */
  readonly kvCachedTokens: number
  readonly kvTotalTokens: number
  readonly loadedAdapterCount: number
}
