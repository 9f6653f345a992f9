import assert from 'node:assert/strict'
import { createDetokenizer, type Detokenizer, type TokenBytes } from '../decode/detokenizer.ts'
import { measureLogprob } from '../decode/logprob.ts'
import { createSampleHistory, type SampleHistory } from '../decode/sampler.ts'
import { createStopRule, type StopRule } from '../decode/stop-rule.ts'
import type { AnswerMatcher, OpenGrammar } from './answer-grammar.ts'
import type { EngineRequest, EngineUsage, FinishReason, TokenLogprob } from './engine-port.ts'
import type { KvRow, StepRow } from './model-runner.ts'
import type { PlannedRow } from './scheduler.ts'

/** An admitted request: it holds KV memory and gets rows of steps. */
export interface Sequence {
  readonly request: EngineRequest
  readonly kv: KvRow
  readonly history: SampleHistory
  readonly stopTokenIds: ReadonlySet<number>
  readonly detokenizer: Detokenizer
  readonly stopRule: StopRule
  readonly promptTokenCount: number
  /** Tokens in the KV cache. */
  readonly computedCount: number
  /** The token to run next; null until the prompt is computed. */
  lastToken: number | null
  /** [H]: with `embed`, the sum of the computed tokens' states; null before the first. */
  stateSum: Float64Array | null
  /** Null where the answer is free, and until its first token. */
  matcher: AnswerMatcher | null
  /** What no event has told yet: of the prompt's tokens so far, where they are wanted. */
  readonly untoldLogprobs: TokenLogprob[]
}

export function createSequence(
  request: EngineRequest,
  kv: KvRow,
  tokenBytes: TokenBytes,
): Sequence {
  return {
    request,
    kv,
    history: createSampleHistory(request.sampling, request.promptTokens),
    stopTokenIds: new Set(request.stopTokenIds),
    detokenizer: createDetokenizer(tokenBytes),
    stopRule: createStopRule(request.stop),
    promptTokenCount: request.promptTokens.length,
    get computedCount() {
      return kv.length
    },
    lastToken: null,
    stateSum: null,
    matcher: null,
    untoldLogprobs: [],
  }
}

/** The row of a step as the runner wants it. */
export function buildStepRow({ sequence, tokenCount, endsPrompt }: PlannedRow<Sequence>): StepRow {
  const { kv, request, lastToken } = sequence
  const tokens =
    lastToken === null
      ? Int32Array.from(request.promptTokens.slice(kv.length, kv.length + tokenCount))
      : Int32Array.of(lastToken)
  const wantStates = request.embed ?? false
  const wantLogits = wantsPromptLogits(sequence) ? 'all' : endsPrompt && !wantStates
  return { kv, tokens, adapter: request.adapter, wantLogits, wantStates }
}

function wantsPromptLogits({ request, lastToken }: Sequence): boolean {
  return request.wantsPromptLogprobs && lastToken === null
}

/** Notes what a chunk's logits ([T, V]) say of the prompt, and gives the last token's ([V]). */
export function takePromptLogits(
  sequence: Sequence,
  tokenCount: number,
  logits: Float32Array,
): Float32Array {
  if (!wantsPromptLogits(sequence)) return logits
  const { request, kv, untoldLogprobs } = sequence
  const vocabSize = logits.length / tokenCount
  const rowOf = (index: number) => logits.subarray(index * vocabSize, (index + 1) * vocabSize)
  for (let i = 0; i < tokenCount; i++) {
    const next = request.promptTokens[kv.length - tokenCount + i + 1]
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

/** The tokens that the answer's grammar allows next; null where it is free. */
export async function openMask(
  sequence: Sequence,
  openGrammar: OpenGrammar | undefined,
): Promise<Int32Array | null> {
  const { grammar } = sequence.request
  if (grammar === null) return null
  assert(openGrammar, 'This engine has no grammars.')
  sequence.matcher ??= await openGrammar(grammar)
  return sequence.matcher.nextMask()
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

/** Takes the token that was just sampled (and is in `history`). */
export function takeToken(sequence: Sequence, tokenId: number): AnswerStep {
  const { stopRule, detokenizer, history, request } = sequence
  sequence.lastToken = tokenId
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

/** What was computed so far: the whole prompt once a token is sampled, its finished chunks before. */
export function countUsage({ kv, history, promptTokenCount }: Sequence): EngineUsage {
  return {
    promptTokens: Math.min(kv.length, promptTokenCount),
    cachedTokens: 0,
    completionTokens: history.sampledCount,
  }
}
