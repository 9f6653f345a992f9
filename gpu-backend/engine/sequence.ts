import assert from 'node:assert/strict'
import type { Tier } from '../../protocol/backend.ts'
import { createDetokenizer, type Detokenizer, type TokenBytes } from '../decode/detokenizer.ts'
import { measureLogprob } from '../decode/logprob.ts'
import { createSampleHistory, type SampleHistory } from '../decode/sampler.ts'
import { createStopRule, type StopRule } from '../decode/stop-rule.ts'
import type { AnswerMatcher, OpenGrammar } from './answer-grammar.ts'
import type { EngineRequest, EngineUsage, FinishReason, TokenLogprob } from './engine-port.ts'
import type { HeldKv } from './kv-memory.ts'
import type { StepRow } from './model-runner.ts'
import { createPageKeys, type PageKeyScope } from './page-keys.ts'
import type { PlannedRow } from './scheduler.ts'

/** The sequences of one caller's request: accepted and refused together. */
export interface ChoiceGroup {
  /** One of them was admitted. From then on none is refused: the caller may have had part of the answer. */
  hasBegun: boolean
  /** Who has no place yet, and gets that of another when it ends. */
  readonly placeless: Set<Sequence>
}

/** What a sequence finds computed if it waits for another. */
export interface SharedBeginning {
  readonly leader: Sequence
  readonly tokenCount: number
}

/** An accepted request: it waits, or holds KV memory and gets rows of steps. */
export interface Sequence {
  readonly request: EngineRequest
  readonly tenant: string
  readonly tier: Tier
  readonly group: ChoiceGroup
  /** With the first of its group that begins alike; null: there is none before it. */
  shared: SharedBeginning | null
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
  /** Of the KV cache, that it holds. */
  readonly pageCount: number
  /** Tokens of the prompt that were found in the cache when it was first admitted; null before. */
  cachedTokenCount: number | null
  /** Tokens of the prompt that are billed: computed or found, once each. */
  billedPromptCount: number
  /** [H]: with `embed`, the sum of the computed tokens' states; null before the first. */
  stateSum: Float64Array | null
  /** Null where the answer is free, and until its first row. */
  matcher: AnswerMatcher | null
  /** What was run of it and is not taken yet: its mask is not known. It gets no row meanwhile. */
  held: HeldRow | null
  /** What no event has told yet: of the prompt's tokens so far, where they are wanted. */
  readonly untoldLogprobs: TokenLogprob[]
}

interface HeldRow {
  readonly row: PlannedRow<Sequence>
  /** What the runner gave for it. */
  readonly output: Float32Array | null
}

export interface Arrival {
  readonly atMs: number
  readonly serial: number
  readonly group: ChoiceGroup
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
    group: arrival.group,
    shared: null,
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
    get pageCount() {
      return this.kv?.pages.length ?? 0
    },
    cachedTokenCount: null,
    billedPromptCount: 0,
    stateSum: null,
    matcher: null,
    held: null,
    untoldLogprobs: [],
  }
}

/** The row of a step as the runner wants it. */
export function buildStepRow({ sequence, tokenCount, wantsToken }: PlannedRow<Sequence>): StepRow {
  const { kv, request, tokens, computedCount } = sequence
  assert(kv !== null, 'a planned sequence holds KV memory')
  const wantStates = request.embed ?? false
  return {
    kv: kv.row,
    tokens: Int32Array.from(tokens.slice(computedCount, computedCount + tokenCount)),
    adapter: request.adapter,
    wantLogits: wantsPromptLogits(sequence) ? 'all' : wantsToken && !wantStates,
    wantStates,
  }
}

/**
 * Pages at its beginning that it may find in the cache: none where something is wanted of each token
 * of the prompt. The last known token is run in any case, for its logits.
 */
export function countFindablePages(sequence: Sequence, pageTokens: number): number {
  const { request, knownTokenCount } = sequence
  if (request.embed === true || request.wantsPromptLogprobs) return 0
  return Math.floor((knownTokenCount - 1) / pageTokens)
}

/** Of a sequence that gives its memory up: what of its prompt no event has told will be measured again. */
export function forgetPrompt(sequence: Sequence): void {
  if (sequence.history.sampledCount > 0) return
  sequence.stateSum = null
  sequence.untoldLogprobs.length = 0
}

/** Not again after a preemption, once they are told. */
function wantsPromptLogits({ request, history }: Sequence): boolean {
  return request.wantsPromptLogprobs && history.sampledCount === 0
}

/** Notes what a chunk's logits ([T, V]) say of the prompt, and gives the last token's ([V]). */
export function takePromptLogits(
  sequence: Sequence,
  tokenCount: number,
  logits: Float32Array,
): Float32Array {
  if (!wantsPromptLogits(sequence)) return logits
  const { request, computedCount, untoldLogprobs } = sequence
  const vocabSize = logits.length / tokenCount
  const rowOf = (index: number) => logits.subarray(index * vocabSize, (index + 1) * vocabSize)
  for (let i = 0; i < tokenCount; i++) {
    const next = request.promptTokens[computedCount - tokenCount + i + 1]
    if (next === undefined) break
    untoldLogprobs.push(measureLogprob(rowOf(i), next, request.topLogprobCount ?? 0))
  }
  return rowOf(tokenCount - 1)
}

/** What the next event tells: what is untold, and what `logits` say of the token that it adds, if it adds one. */
export function takeLogprobs(
  { request, untoldLogprobs }: Sequence,
  logits: Float32Array,
  tokenId: number | null,
): readonly TokenLogprob[] {
  const { topLogprobCount } = request
  if (topLogprobCount === null) return []
  const untold = untoldLogprobs.splice(0)
  return tokenId === null ? untold : [...untold, measureLogprob(logits, tokenId, topLogprobCount)]
}

/** Has the mask of the next token sought, where the answer is not free. */
export function seekMask(sequence: Sequence, openGrammar: OpenGrammar | undefined): void {
  const { grammar } = sequence.request
  if (grammar === null) return
  sequence.matcher ??= openGrammar?.(grammar) ?? null
  sequence.matcher?.seekMask()
}

/** Of the tokens that the answer's grammar allows next; null where it is free. */
export function findMask({ request, matcher }: Sequence): Int32Array | 'awaited' | null {
  if (request.grammar === null) return null
  assert(matcher, 'This engine has no grammars.')
  return matcher.findMask() ?? 'awaited'
}

/** Adds the states of a row that was just run; `sum` [H]. */
export function addStates(sequence: Sequence, sum: Float32Array): void {
  const before = sequence.stateSum
  sequence.stateSum = Float64Array.from(sum, (value, i) => value + (before?.[i] ?? 0))
}

/** [H]: the mean over the prompt, once all of it is added. */
export function meanState({ stateSum, promptTokenCount }: Sequence): Float32Array {
  return Float32Array.from(stateSum ?? [], (value) => value / promptTokenCount)
}

/** What a sampled token adds to the answer. */
export interface AnswerStep {
  /** Null when the token ends the answer and is no part of it: a stop token, or the end of a stop string. */
  readonly token: { readonly text: string } | null
  /** Null while the answer goes on. */
  readonly finish: { readonly reason: FinishReason; readonly text: string } | null
}

/** Of a request for its prompt's log probabilities alone. */
export const NO_ANSWER = {
  tokenId: null,
  token: null,
  finish: { reason: 'length', text: '' },
} as const

/** Takes the token that was just sampled (and is in `history`). */
export function takeToken(sequence: Sequence, tokenId: number): AnswerStep {
  const { stopRule, detokenizer, history, request } = sequence
  sequence.tokens.push(tokenId)
  sequence.matcher?.accept(tokenId)
  if (sequence.stopTokenIds.has(tokenId)) {
    return { token: null, finish: { reason: 'stop', text: stopRule.flush() } }
  }
  const { text, stopped } = stopRule.push(detokenizer.push(tokenId))
  if (stopped) return { token: null, finish: { reason: 'stop', text } }
  const token = { text }
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
