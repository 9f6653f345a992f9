import type { KvRow, ModelRunner, StepRow } from '../../gpu-backend/engine/model-runner.ts'

/** Text of the toy's tokens: some hold parts of characters, or bytes that are no UTF-8. The last is its end of sequence. */
const PIECES: readonly Uint8Array[] = [
  ...[...'abcdefghijklmnopqrstuvwxyz .,'].map((piece) => new TextEncoder().encode(piece)),
  ...['the ', ' and', 'ab', 'STOP', 'é', '😀'].map((piece) => new TextEncoder().encode(piece)),
  ...[[0xf0, 0x9f], [0x98], [0x80], [0xc3], [0xff]].map((bytes) => Uint8Array.from(bytes)),
  new Uint8Array(),
]

export const TOY_VOCAB_SIZE = PIECES.length
export const TOY_EOS = TOY_VOCAB_SIZE - 1
export const toyTokenBytes = (tokenId: number): Uint8Array => PIECES[tokenId]!

export interface ToyOptions {
  readonly kvTokens: number
  readonly contextLength?: number
  /** Called before each run; what it throws fails the run. */
  readonly beforeRun?: (rows: readonly StepRow[]) => void
  /** Rows whose logits come out as NaN. */
  readonly isPoisoned?: (row: StepRow) => boolean
}

export interface ToyRunner extends ModelRunner {
  readonly liveRowCount: () => number
  /** Tokens in the rows of each run so far. */
  readonly stepSizes: readonly number[]
  /** Every `[from, to)` that was run with more than one token or no logits. */
  readonly chunks: readonly (readonly [number, number])[]
  /** The first breach of contract, for tests to assert on, since the engine catches what a run throws. */
  misuse: string | null
}

interface ToyRow {
  readonly id: number
  readonly capacity: number
  readonly history: number[]
  readonly length: number
}

/**
 * A model whose logits are a hash of the adapter and the tokens so far, and which checks that the
 * engine keeps the runner's contract.
 */
export function createToyRunner(options: ToyOptions): ToyRunner {
  const rows = new Map<number, ToyRow>()
  const stepSizes: number[] = []
  const chunks: (readonly [number, number])[] = []
  let nextId = 0
  let freeKvTokens = options.kvTokens
  let isRunning = false
  let handedOut: Float32Array[] = []

  function check(condition: boolean, sentence: string): void {
    if (condition) return
    toy.misuse ??= sentence
    throw new Error(`toy runner misused: ${sentence}`)
  }

  function createKvRow(capacity: number): KvRow | null {
    check(Number.isInteger(capacity) && capacity > 0, `capacity ${capacity}`)
    if (capacity > freeKvTokens) return null
    freeKvTokens -= capacity
    const history: number[] = []
    const row = {
      id: nextId++,
      capacity,
      history,
      get length() {
        return history.length
      },
    }
    rows.set(row.id, row)
    return row
  }

  function freeKvRow(row: KvRow): void {
    check(!isRunning, 'a row was freed during a run')
    check(rows.delete(row.id), `row ${row.id} was freed twice`)
    freeKvTokens += row.capacity
  }

  function checkRow(step: StepRow): ToyRow {
    const row = rows.get(step.kv.id)
    check(row !== undefined, `row ${step.kv.id} is not live`)
    check(step.tokens.length >= 1, 'a row has no tokens')
    check(
      step.tokens.every((id) => id >= 0 && id < TOY_VOCAB_SIZE),
      'a token is out of range',
    )
    check(row!.length + step.tokens.length <= row!.capacity, 'a row ran past its capacity')
    return row!
  }

  async function run(steps: readonly StepRow[]): Promise<readonly (Float32Array | null)[]> {
    check(!isRunning, 'two runs at once')
    check(steps.length > 0, 'a run of no rows')
    check(new Set(steps.map((step) => step.kv.id)).size === steps.length, 'a row twice in a run')
    const live = steps.map(checkRow)
    isRunning = true
    for (const logits of handedOut) logits.fill(Number.NaN)
    handedOut = []
    try {
      await Promise.resolve()
      options.beforeRun?.(steps)
      stepSizes.push(steps.reduce((sum, step) => sum + step.tokens.length, 0))
      return steps.map((step, index) => {
        const row = live[index]!
        if (step.tokens.length > 1 || !step.wantLogits) {
          chunks.push([row.length, row.length + step.tokens.length])
        }
        row.history.push(...step.tokens)
        if (!step.wantLogits) return null
        const logits = toyLogits(row.history, step.adapter)
        if (options.isPoisoned?.(step)) logits[3] = Number.NaN
        handedOut.push(logits)
        return logits
      })
    } finally {
      isRunning = false
    }
  }

  const toy: ToyRunner = {
    vocabSize: TOY_VOCAB_SIZE,
    contextLength: options.contextLength ?? options.kvTokens,
    get freeKvTokens() {
      return freeKvTokens
    },
    createKvRow,
    freeKvRow,
    run,
    liveRowCount: () => rows.size,
    stepSizes,
    chunks,
    misuse: null,
  }
  return toy
}

function toyLogits(history: readonly number[], adapter: string | null): Float32Array {
  let hash = 0x811c9dc5
  const mix = (value: number) => {
    hash = Math.imul(hash ^ value, 0x01000193)
    hash ^= hash >>> 15
  }
  for (const unit of adapter ?? '') mix(unit.charCodeAt(0))
  for (const id of history) mix(id + 1)
  return Float32Array.from({ length: TOY_VOCAB_SIZE }, (_, id) => {
    const mixed = Math.imul(hash ^ Math.imul(id + 1, 0x9e3779b1), 0x85ebca6b)
    return ((mixed ^ (mixed >>> 13)) >>> 0) / 2 ** 29 - 4
  })
}
