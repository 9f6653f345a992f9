import assert from 'node:assert/strict'

export interface EngineLimits {
  /** Sequences that hold KV memory at the same time. */
  readonly maxRunningCount: number
  /** Requests that may wait besides; when `maxRunningCount + maxWaitingCount` are live, one more is refused as `overloaded`. */
  readonly maxWaitingCount: number
  /** Tokens of one step, decode rows and prompt chunks together: bounds the wait that one prompt adds to everybody's next token. */
  readonly maxStepTokens: number
  /** Prompts are run in pieces that end at multiples of this, counted from their start and never by what else runs, so that an answer does not depend on its company. */
  readonly chunkTokens: number
}

export const DEFAULT_ENGINE_LIMITS: EngineLimits = {
  maxRunningCount: 32,
  maxWaitingCount: 256,
  maxStepTokens: 128,
  chunkTokens: 64,
}

/** Throws when a limit is no positive integer, or a step could have no room for a chunk; names the limit. */
export function assertLimits(limits: EngineLimits): void {
  const { maxRunningCount, maxStepTokens, chunkTokens } = limits
  for (const [name, value] of Object.entries(limits)) {
    assert(Number.isSafeInteger(value) && value > 0, `${name} is ${value}, not a positive integer`)
  }
  const least = maxRunningCount + chunkTokens
  assert(
    maxStepTokens >= least,
    `maxStepTokens is ${maxStepTokens}, less than maxRunningCount + chunkTokens = ${least}`,
  )
}

/** What the planner needs to know of a running sequence. */
export interface RunningView {
  readonly promptTokenCount: number
  /** Tokens that are in the KV cache. */
  readonly computedCount: number
}

/** One sequence's share of a step. */
export interface PlannedRow<T extends RunningView> {
  readonly sequence: T
  /** 1 for a decode row; for a prompt the rest of its current chunk. */
  readonly tokenCount: number
  /** Whether a token is sampled after the row: not while the prompt goes on. */
  readonly endsPrompt: boolean
}

/**
 * Plans one step over the running sequences, in their order of admission: every sequence that
 * decodes gets its token; what is left of the budget goes to prompts, one chunk each, and stops at
 * the first that does not fit, so that a later short chunk never overtakes an earlier long one.
 */
export function planStep<T extends RunningView>(
  running: Iterable<T>,
  limits: EngineLimits,
): readonly PlannedRow<T>[] {
  const decodes: PlannedRow<T>[] = []
  const prompts: T[] = []
  for (const sequence of running) {
    if (sequence.computedCount < sequence.promptTokenCount) prompts.push(sequence)
    else decodes.push({ sequence, tokenCount: 1, endsPrompt: true })
  }
  const chunks: PlannedRow<T>[] = []
  let budget = limits.maxStepTokens - decodes.length
  for (const sequence of prompts) {
    const row = planChunk(sequence, limits.chunkTokens)
    if (row.tokenCount > budget) break
    budget -= row.tokenCount
    chunks.push(row)
  }
  return [...decodes, ...chunks]
}

function planChunk<T extends RunningView>(sequence: T, chunkTokens: number): PlannedRow<T> {
  const { computedCount, promptTokenCount } = sequence
  const gridEnd = (Math.floor(computedCount / chunkTokens) + 1) * chunkTokens
  const end = Math.min(gridEnd, promptTokenCount)
  return { sequence, tokenCount: end - computedCount, endsPrompt: end === promptTokenCount }
}
