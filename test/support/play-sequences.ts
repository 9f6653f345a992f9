import type { LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'
import {
  createModelRunner,
  type LoraModelRunner,
  type ModelRunnerOptions,
} from '../../gpu-backend/compute/model-runner.ts'
import type { KvRow } from '../../gpu-backend/engine/model-runner.ts'
import type { ModelSource } from '../../gpu-backend/model/model-source.ts'
import { TEST_PROVIDER } from './providers.ts'
import { createRandom } from './random.ts'
import { seedOf } from './random-model.ts'
import { referenceLogits } from './reference-llama.ts'

/** Tokens that are run whatever is predicted, and the logits [V] after each cut. */
export interface Sequence {
  readonly tokens: readonly number[]
  readonly adapter: LoraWeights | null
  readonly logits: Map<number, Float32Array>
  readonly cuts: number[]
  kv: KvRow | null
}

export function createSequence(
  source: ModelSource,
  {
    seed,
    tokenCount,
    adapter = null,
  }: { seed: number; tokenCount: number; adapter?: LoraWeights | null },
): Sequence {
  const random = createRandom(seedOf(`tokens.${seed}`))
  const tokens = Array.from({ length: tokenCount }, () =>
    Math.floor(random() * source.config.vocabSize),
  )
  return { tokens, adapter, logits: new Map(), cuts: [], kv: null }
}

export function startRunner(
  source: ModelSource,
  options: Partial<ModelRunnerOptions> = {},
): Promise<LoraModelRunner> {
  return createModelRunner(source, {
    executionProvider: TEST_PROVIDER,
    threadCount: 1,
    kvBudgetTokens: 64 * 64,
    ...options,
  })
}

const usedPages = new WeakMap<LoraModelRunner, Set<number>>()
const pagesOfRow = new WeakMap<KvRow, readonly number[]>()

/** A row of empty pages for so many tokens, the free pages with the lowest numbers. */
export function openKvRow(runner: LoraModelRunner, capacity: number): KvRow {
  const used = usedPages.get(runner) ?? new Set()
  usedPages.set(runner, used)
  const row = runner.createKvRow()
  const pages: number[] = []
  for (let page = 0; row.capacity < capacity; page++) {
    if (used.has(page)) continue
    runner.addKvPage(row, page, 'empty')
    used.add(page)
    pages.push(page)
  }
  pagesOfRow.set(row, pages)
  return row
}

/** Frees a row of {@link openKvRow} and its pages. */
export function closeKvRow(runner: LoraModelRunner, row: KvRow): void {
  runner.freeKvRow(row)
  for (const page of pagesOfRow.get(row) ?? []) usedPages.get(runner)?.delete(page)
}

export function cutInto(length: number, size: number): number[] {
  return Array.from({ length: Math.ceil(length / size) }, (_, i) =>
    Math.min(size, length - i * size),
  )
}

/** Runs the sequences side by side, each in pieces of `cuts`. */
export async function play(
  runner: LoraModelRunner,
  sequences: readonly Sequence[],
  cuts: readonly number[],
): Promise<void> {
  for (const cut of cuts)
    await runStep(
      runner,
      sequences.map((sequence) => ({ sequence, cut })),
    )
}

/** Runs random subsets of the sequences in random pieces until all are done, or `isOver` says so. */
export async function playRandomly(
  runner: LoraModelRunner,
  sequences: readonly Sequence[],
  name: string,
  isOver = () => false,
): Promise<void> {
  const random = createRandom(seedOf(name))
  while (!isOver()) {
    const open = sequences.filter((sequence) => !isDone(sequence))
    if (open.length === 0) return
    const step = open
      .filter(() => random() < 0.8)
      .map((sequence) => {
        const left = sequence.tokens.length - (sequence.kv?.length ?? 0)
        return { sequence, cut: Math.min(left, random() < 0.6 ? 1 : 1 + Math.floor(random() * 70)) }
      })
    if (step.length > 0) await runStep(runner, step)
  }
}

export function isDone(sequence: Sequence | undefined): boolean {
  return sequence?.kv?.length === sequence?.tokens.length
}

/** One step of these sequences, each so many tokens on. */
export async function runStep(
  runner: LoraModelRunner,
  step: readonly { sequence: Sequence; cut: number }[],
): Promise<void> {
  const rows = step.map(({ sequence, cut }) => {
    sequence.kv ??= openKvRow(runner, sequence.tokens.length)
    const { kv } = sequence
    const tokens = Int32Array.from(sequence.tokens.slice(kv.length, kv.length + cut))
    return { kv, tokens, adapter: sequence.adapter?.digest ?? null, wantLogits: true }
  })
  const results = await runner.run(rows)
  step.forEach(({ sequence, cut }, i) => {
    sequence.cuts.push(cut)
    sequence.logits.set(sequence.kv!.length, results[i]!.slice())
  })
}

/** The largest difference of any logit from the reference. */
export function worstError(source: ModelSource, sequence: Sequence): number {
  const expected = referenceLogits(source, sequence.tokens, sequence.adapter)
  let worst = 0
  for (const [end, logits] of sequence.logits) {
    logits.forEach((value, token) => {
      const error = Math.abs(value - expected[end - 1]![token]!)
      if (!(error <= worst)) worst = error
    })
  }
  return worst
}
