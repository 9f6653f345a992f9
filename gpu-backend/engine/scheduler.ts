import assert from 'node:assert/strict'

export interface EngineLimits {
  /** Sequences that hold KV memory at the same time. */
  readonly maxRunningCount: number
  /** Requests that may wait besides; when `maxRunningCount + maxWaitingCount` are live, one more is refused as `overloaded`. */
  readonly maxWaitingCount: number
  /** Of these requests, one that was never admitted is refused as `overloaded` after this long. */
  readonly maxWaitMs: number
  /** After each such time since its arrival a request counts as one tier more urgent. */
  readonly promoteAfterMs: number
  /**
   * Prompts are run in pieces that end at multiples of this, counted from their start and never by what else runs, so that an answer does not depend on its company.
   * So many tokens of prompts are in a step at most, which bounds the wait that they add to everybody's next token.
   */
  readonly chunkTokens: number
}

export const DEFAULT_ENGINE_LIMITS: EngineLimits = {
  maxRunningCount: 32,
  maxWaitingCount: 256,
  maxWaitMs: 120_000,
  promoteAfterMs: 20_000,
  chunkTokens: 64,
}

/** Throws when a limit is no positive integer; names the limit. */
export function assertLimits(limits: EngineLimits): void {
  for (const [name, value] of Object.entries(limits)) {
    assert(Number.isSafeInteger(value) && value > 0, `${name} is ${value}, not a positive integer`)
  }
}

/** What the planner needs to know of a running sequence. */
export interface RunningView {
  readonly promptTokenCount: number
  /** The prompt and what was sampled. */
  readonly knownTokenCount: number
  /** Tokens that are in the KV cache: fewer than are known. */
  readonly computedCount: number
}

/** One sequence's share of a step. */
export interface PlannedRow<T extends RunningView> {
  readonly sequence: T
  /** 1 for a decode row; for a prompt the rest of its current chunk. */
  readonly tokenCount: number
  /** Whether a token is sampled after the row: not while there are known tokens behind it. */
  readonly wantsToken: boolean
}

/**
 * Plans one step over the running sequences: every sequence that decodes gets its token; prompts
 * follow in the order of `takeTurns`, a chunk each, together no more tokens than one has, up to the
 * first that does not fit, so that a later short chunk never overtakes an earlier long one.
 * After a preemption what was sampled is run again one by one, as at first: a chunk rounds differently.
 */
export function planStep<T extends RunningView>(
  running: Iterable<T>,
  limits: EngineLimits,
  takeTurns: (prompts: readonly T[]) => Iterable<T>,
): readonly PlannedRow<T>[] {
  const rows: PlannedRow<T>[] = []
  const prompts: T[] = []
  for (const sequence of running) {
    if (sequence.computedCount < sequence.promptTokenCount) prompts.push(sequence)
    else rows.push(planRow(sequence, 1))
  }
  let budget = limits.chunkTokens
  for (const sequence of takeTurns(prompts)) {
    const row = planChunk(sequence, limits.chunkTokens)
    if (row.tokenCount > budget) break
    budget -= row.tokenCount
    rows.push(row)
  }
  return rows
}

function planChunk<T extends RunningView>(sequence: T, chunkTokens: number): PlannedRow<T> {
  const { computedCount, promptTokenCount } = sequence
  const gridEnd = (Math.floor(computedCount / chunkTokens) + 1) * chunkTokens
  return planRow(sequence, Math.min(gridEnd, promptTokenCount) - computedCount)
}

function planRow<T extends RunningView>(sequence: T, tokenCount: number): PlannedRow<T> {
  const wantsToken = sequence.computedCount + tokenCount === sequence.knownTokenCount
  return { sequence, tokenCount, wantsToken }
}
