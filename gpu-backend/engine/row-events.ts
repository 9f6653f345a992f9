import assert from 'node:assert/strict'
import type { EngineEvent } from './engine-port.ts'
import type { PlannedRow } from './scheduler.ts'
import {
  addStates,
  countUsage,
  meanState,
  NO_ANSWER,
  type Sequence,
  takeLogprobs,
  takePromptLogits,
  takeToken,
} from './sequence.ts'

/** A step's event for one request; `finish` is its last. */
export type RowEvent = Extract<EngineEvent, { kind: 'token' | 'finish' }>

/**
 * What a row that was run says to its caller: nothing while its prompt is not at its end. `output` is
 * what the runner gave for it; `sample` chooses the answer's next token. Throws on what the model
 * should not have given.
 */
export function takeRow(
  row: PlannedRow<Sequence>,
  output: Float32Array | null,
  sample: (logits: Float32Array) => number,
): readonly RowEvent[] {
  const { sequence, tokenCount, wantsToken } = row
  if (sequence.request.embed) return takeStates(row, output)
  const logits = output && takePromptLogits(sequence, tokenCount, output)
  if (!wantsToken) return []
  assert(logits !== null, 'the runner gave no logits for a row that wants them')
  return takeLogits(sequence, logits, sample)
}

function takeStates(
  { sequence, wantsToken }: PlannedRow<Sequence>,
  states: Float32Array | null,
): readonly RowEvent[] {
  assert(states !== null, 'the runner gave no states for a row that wants them')
  assert(states.every(Number.isFinite), 'the runner gave states that are not finite')
  addStates(sequence, states)
  if (!wantsToken) return []
  const { id } = sequence.request
  const end = { reason: 'stop', text: '', logprobs: [] } as const
  const usage = countUsage(sequence)
  return [{ kind: 'finish', id, ...end, usage, embedding: meanState(sequence) }]
}

function takeLogits(
  sequence: Sequence,
  logits: Float32Array,
  sample: (logits: Float32Array) => number,
): readonly RowEvent[] {
  const { id, maxTokens } = sequence.request
  const { tokenId, token, finish } =
    maxTokens === 0 ? NO_ANSWER : sampleToken(sequence, sample(logits))
  const logprobs = takeLogprobs(sequence, logits, token && tokenId)
  const events: RowEvent[] = []
  if (token !== null) events.push({ kind: 'token', id, tokenId, text: token.text, logprobs })
  if (finish !== null) {
    const untold = token === null ? logprobs : []
    const usage = countUsage(sequence)
    events.push({ kind: 'finish', id, ...finish, logprobs: untold, usage })
  }
  return events
}

function sampleToken(sequence: Sequence, tokenId: number) {
  return { tokenId, ...takeToken(sequence, tokenId) }
}
