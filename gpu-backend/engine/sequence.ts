import assert from 'node:assert/strict'
import type { Tier } from '../../protocol/backend.ts'
import { createDetokenizer, type Detokenizer, type TokenBytes } from '../decode/detokenizer.ts'
import { createSampleHistory, type SampleHistory } from '../decode/sampler.ts'
import { createStopRule, type StopRule } from '../decode/stop-rule.ts'
import type { EngineRequest, EngineUsage, FinishReason } from './engine-port.ts'
import type { HeldKv } from './kv-memory.ts'
import type { StepRow } from './model-runner.ts'
import { createPageKeys, type PageKeyScope } from './page-keys.ts'
import type { PlannedRow } from './scheduler.ts'

/** An accepted request: it waits, or holds KV memory and gets rows of steps. */
export interface Sequence {
  readonly request: EngineRequest
  readonly tenant: string
  readonly tier: Tier
  readonly arrivedAtMs: number
  /** Number in the order of arrival. */
  readonly serial: number
  /** The prompt, and behind it what was sampled so far. */
  readonly tokens: number[]
  /** See `createPageKeys`. */
  readonly pageKeyOf: (index: number) => string
  readonly history: SampleHistory
  readonly stopTokenIds: ReadonlySet<number>
  readonly detokenizer: Detokenizer
  readonly stopRule: StopRule
  readonly promptTokenCount: number
  readonly knownTokenCount: number
  /** Tokens in the KV cache. */
  readonly computedCount: number
  /** Null while it waits. */
  kv: HeldKv | null
  /** Tokens of the prompt that were found in the cache when it was first admitted; null before. */
  cachedTokenCount: number | null
  /** Tokens of the prompt that are billed: computed or found, once each. */
  billedPromptCount: number
}

export interface Arrival {
  readonly atMs: number
  readonly serial: number
  readonly tokenBytes: TokenBytes
  readonly pageTokens: number
  readonly scope: PageKeyScope
}

export function createSequence(request: EngineRequest, arrival: Arrival): Sequence {
  const tokens = [...request.promptTokens]
  const promptTokenCount = tokens.length
  const { scope, pageTokens } = arrival
  return {
    request,
    tenant: request.tenant,
    tier: request.tier,
    arrivedAtMs: arrival.atMs,
    serial: arrival.serial,
    tokens,
    pageKeyOf: createPageKeys({ scope, tokens, promptTokenCount, pageTokens }),
    history: createSampleHistory(request.sampling, request.promptTokens),
    stopTokenIds: new Set(request.stopTokenIds),
    detokenizer: createDetokenizer(arrival.tokenBytes),
    stopRule: createStopRule(request.stop),
    promptTokenCount,
    get knownTokenCount() {
      return tokens.length
    },
    get computedCount() {
      return this.kv?.row.length ?? 0
    },
    kv: null,
    cachedTokenCount: null,
    billedPromptCount: 0,
  }
}

/** The row of a step as the runner wants it. */
export function buildStepRow({ sequence, tokenCount, wantsToken }: PlannedRow<Sequence>): StepRow {
  const { kv, request, tokens, computedCount } = sequence
  assert(kv !== null, 'a planned sequence holds KV memory')
  return {
    kv: kv.row,
    tokens: Int32Array.from(tokens.slice(computedCount, computedCount + tokenCount)),
    adapter: request.adapter,
    wantLogits: wantsToken,
  }
}

/** What a sampled token adds to the answer. */
export interface AnswerStep {
  /** Null when the token ends the answer and is no part of it: a stop token, or the end of a stop string. */
  readonly token: { readonly tokenId: number; readonly text: string } | null
  /** Null while the answer goes on. */
  readonly finish: { readonly reason: FinishReason; readonly text: string } | null
}

/** Takes the token that was just sampled (and is in `history`). */
export function takeToken(sequence: Sequence, tokenId: number): AnswerStep {
  const { stopRule, detokenizer, history, request } = sequence
  sequence.tokens.push(tokenId)
  if (sequence.stopTokenIds.has(tokenId)) {
    return { token: null, finish: { reason: 'stop', text: stopRule.flush() } }
  }
  const { text, stopped } = stopRule.push(detokenizer.push(tokenId))
  if (stopped) return { token: null, finish: { reason: 'stop', text } }
  const token = { tokenId, text }
  if (history.sampledCount < request.maxTokens) return { token, finish: null }
  return { token, finish: { reason: 'length', text: stopRule.flush() } }
}

export const NO_USAGE: EngineUsage = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 }

/** Bills what of the prompt is in the KV cache and was not billed yet; gives its tokens. */
export function billPrompt(sequence: Sequence): number {
  const doneCount = Math.min(sequence.computedCount, sequence.promptTokenCount)
  const newCount = Math.max(0, doneCount - sequence.billedPromptCount)
  sequence.billedPromptCount += newCount
  return newCount
}

/** What was computed so far: the whole prompt once a token is sampled, its finished chunks before. Nothing counts twice. */
export function countUsage(sequence: Sequence): EngineUsage {
  return {
    promptTokens: sequence.billedPromptCount,
    cachedTokens: sequence.cachedTokenCount ?? 0,
    completionTokens: sequence.history.sampledCount,
  }
}
