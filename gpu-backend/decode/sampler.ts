import assert from 'node:assert/strict'
import type { SamplingParams } from '../engine/engine-port.ts'
import { expNegative } from './exp.ts'
import { drawUniform } from './philox.ts'

/** What the choice of an answer's next token depends on besides the logits. */
export interface SampleHistory {
  readonly params: SamplingParams
  /** Tokens of the prompt and of the answer, for the repetition penalty. */
  readonly seenTokens: Set<number>
  /** Token → how often the answer has it, for the presence and frequency penalties. */
  readonly answerCounts: Map<number, number>
  /** Tokens sampled so far: the position that the random number is drawn for. */
  sampledCount: number
}

export function createSampleHistory(
  params: SamplingParams,
  promptTokens: readonly number[],
): SampleHistory {
  const remembered = params.repetitionPenalty === 1 ? [] : promptTokens
  return {
    params,
    seenTokens: new Set(remembered),
    answerCounts: new Map(),
    sampledCount: 0,
  }
}

export interface Sampler {
  /**
   * Chooses the next token from `logits` ([V] float32, left as they are) and notes it in `history`.
   * The order is vLLM's: bias, penalties, mask, temperature, min-p, top-k, top-p. Equal logits and an
   * equal history give the same token. Of a `mask` ([⌈V/32⌉], null: none) only the tokens whose bits
   * are set can be chosen. Throws when the logits hold NaN or no finite maximum.
   */
  readonly sample: (
    logits: Float32Array,
    history: SampleHistory,
    mask?: Int32Array | null,
  ) => number
}

/** Holds scratch memory for one vocabulary; one sampler serves all sequences of a thread. */
export function createSampler(vocabSize: number): Sampler {
  const adjusted = new Float32Array(vocabSize)
  const candidates: Candidates = {
    ids: new Int32Array(vocabSize),
    weights: new Float64Array(vocabSize),
  }

  function sample(
    logits: Float32Array,
    history: SampleHistory,
    mask: Int32Array | null = null,
  ): number {
    assert(logits.length === vocabSize, `a row of logits has ${logits.length} values`)
    const { params } = history
    const scores = mask !== null || needsAdjusting(history) ? adjusted : logits
    if (scores === adjusted) {
      adjusted.set(logits)
      adjustScores(adjusted, history)
      if (mask !== null) applyMask(adjusted, mask)
    }
    const best = findBest(scores)
    const token = params.temperature === 0 ? best : drawToken(scores, best, history, candidates)
    remember(history, token)
    return token
  }

  return { sample }
}

function needsAdjusting({ params }: SampleHistory): boolean {
  return (
    params.logitBias.length > 0 ||
    params.repetitionPenalty !== 1 ||
    params.presencePenalty !== 0 ||
    params.frequencyPenalty !== 0
  )
}

function adjustScores(scores: Float32Array, history: SampleHistory): void {
  const { logitBias, repetitionPenalty, presencePenalty, frequencyPenalty } = history.params
  for (const [id, bias] of logitBias) scores[id] = (scores[id] ?? 0) + bias
  if (repetitionPenalty !== 1) {
    for (const id of history.seenTokens) {
      const score = scores[id] ?? 0
      scores[id] = score > 0 ? score / repetitionPenalty : score * repetitionPenalty
    }
  }
  for (const [id, count] of history.answerCounts) {
    scores[id] = (scores[id] ?? 0) - presencePenalty - frequencyPenalty * count
  }
}

function applyMask(scores: Float32Array, mask: Int32Array): void {
  for (let id = 0; id < scores.length; id++) {
    const isAllowed = (((mask[id >>> 5] ?? 0) >>> (id & 31)) & 1) === 1
    if (!isAllowed) scores[id] = Number.NEGATIVE_INFINITY
  }
}

/** The token with the highest score; of equal ones the first. */
function findBest(scores: Float32Array): number {
  let best = -1
  let highest = Number.NEGATIVE_INFINITY
  // By index: iterating a typed array is four times slower, and this runs over V for each token. A message made
  // in the loop would be twice as slow.
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id] ?? Number.NaN
    if (score <= highest) continue
    highest = score
    best = id
    if (Number.isNaN(score)) break
  }
  if (Number.isNaN(highest)) throw new Error(`logit ${best} is NaN`)
  assert(Number.isFinite(highest), 'the logits have no finite maximum')
  return best
}

function remember(history: SampleHistory, token: number): void {
  history.sampledCount++
  history.answerCounts.set(token, (history.answerCounts.get(token) ?? 0) + 1)
  if (history.params.repetitionPenalty !== 1) history.seenTokens.add(token)
}

/** Tokens that may be drawn, and weights by token id relative to the best token's 1. */
interface Candidates {
  readonly ids: Int32Array /* [V] */
  readonly weights: Float64Array /* [V] */
}

function drawToken(
  scores: Float32Array,
  best: number,
  history: SampleHistory,
  candidates: Candidates,
): number {
  const { temperature, minP, topK, topP, seed } = history.params
  const { ids, weights } = candidates
  const highest = scores[best] ?? 0
  const lowestDelta = minP > 0 ? Math.log(minP) * temperature : Number.NEGATIVE_INFINITY
  let count = 0
  for (let id = 0; id < scores.length; id++) {
    const delta = (scores[id] ?? 0) - highest
    if (delta >= lowestDelta) {
      weights[id] = expNegative(delta / temperature)
      ids[count++] = id
    }
  }
  const allCount = count
  if (topK > 0 && topK < count) count = keepTop(candidates, count, topK, () => 1)
  if (topP < 1) {
    const mass = sumWeights(candidates, count)
    count = dropTail(candidates, count, ((1 - topP) * mass) / count)
    count = keepTop(candidates, count, topP * mass, (kept) => weights[kept] ?? 0)
  }
  // Drawn in the order of the ids, so that a tiny change of one logit moves the others hardly at all.
  if (count < allCount) ids.subarray(0, count).sort()
  return pickByMass(candidates, count, drawUniform(seed, history.sampledCount))
}

/** Keeps those that weigh at least `least`. All that weigh less than an even part of what top-p leaves out are left out. */
function dropTail({ ids, weights }: Candidates, count: number, least: number): number {
  let keptCount = 0
  for (let i = 0; i < count; i++) {
    const id = ids[i] ?? 0
    if ((weights[id] ?? 0) >= least) ids[keptCount++] = id
  }
  return keptCount
}

/**
 * Moves the likeliest of the first `count` candidates to the front (equal ones: lower ids first)
 * and returns how many of them it takes until their measures add up to `target`; at least 1.
 * A quickselect: linear in `count` on average, where sorting a vocabulary is not.
 */
function keepTop(
  candidates: Candidates,
  count: number,
  target: number,
  measure: (id: number) => number,
): number {
  const { ids } = candidates
  let from = 0
  let to = count
  let missing = target
  while (to - from > 1) {
    const pivot = partition(candidates, from, to)
    let before = 0
    for (let i = from; i < pivot; i++) before += measure(ids[i] ?? 0)
    if (before >= missing) {
      to = pivot
    } else {
      missing -= before + measure(ids[pivot] ?? 0)
      if (missing <= 0) return pivot + 1
      from = pivot + 1
    }
  }
  return Math.max(1, to)
}

/** Puts what is likelier than a pivot before it and returns the pivot's place. */
function partition({ ids, weights }: Candidates, from: number, to: number): number {
  const last = to - 1
  const middle = (from + last) >>> 1
  const pivotId = ids[middle] ?? 0
  const pivotWeight = weights[pivotId] ?? 0
  ids[middle] = ids[last] ?? 0
  let place = from
  for (let i = from; i < last; i++) {
    const id = ids[i] ?? 0
    const weight = weights[id] ?? 0
    if (weight > pivotWeight || (weight === pivotWeight && id < pivotId)) {
      ids[i] = ids[place] ?? 0
      ids[place++] = id
    }
  }
  ids[last] = ids[place] ?? 0
  ids[place] = pivotId
  return place
}

function sumWeights({ ids, weights }: Candidates, count: number): number {
  let sum = 0
  for (let i = 0; i < count; i++) sum += weights[ids[i] ?? 0] ?? 0
  return sum
}

/** The candidate at share `uniform` of the weights' sum. */
function pickByMass(candidates: Candidates, count: number, uniform: number): number {
  const { ids, weights } = candidates
  const target = uniform * sumWeights(candidates, count)
  let passed = 0
  let picked = 0
  for (let i = 0; i < count; i++) {
    const id = ids[i] ?? 0
    const weight = weights[id] ?? 0
    if (weight === 0) continue
    picked = id
    passed += weight
    if (passed > target) break
  }
  return picked
}
