import type {
  KvRow,
  ModelRunner,
  PageContent,
  StepRow,
} from '../../gpu-backend/engine/model-runner.ts'

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
  /** A multiple of `pageTokens`. */
  readonly kvTokens: number
  /** 16 unless told. */
  readonly pageTokens?: number
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
  /** Page → the live row that it is in. */
  readonly pageOwners: ReadonlyMap<number, number>
  /** Every `[from, to)` that was run with more than one token or no logits. */
  readonly chunks: readonly (readonly [number, number])[]
  /** The first breach of contract, for tests to assert on, since the engine catches what a run throws. */
  misuse: string | null
}

interface ToyRow extends KvRow {
  readonly pages: number[]
  length: number
}

/**
 * A model whose logits are a hash of the adapter, the tokens so far and how these were cut into
 * chunks, kept in its pages token by token: whoever gets a wrong page, or a page that was computed
 * in other chunks, gets other logits. It checks that the engine keeps the runner's contract.
 */
export function createToyRunner(options: ToyOptions): ToyRunner {
  const { pageTokens = 16 } = options
  const rows = new Map<number, ToyRow>()
  /** Hashes by page and place. */
  const contents = Array.from({ length: options.kvTokens / pageTokens }, (): number[] => [])
  const pageOwners = new Map<number, number>()
  const stepSizes: number[] = []
  const chunks: (readonly [number, number])[] = []
  let nextId = 0
  let isRunning = false
  let handedOut: Float32Array[] = []

  function check(condition: boolean, sentence: string): void {
    if (condition) return
    toy.misuse ??= sentence
    throw new Error(`toy runner misused: ${sentence}`)
  }

  function createKvRow(): KvRow {
    const pages: number[] = []
    const row: ToyRow = {
      id: nextId++,
      length: 0,
      pages,
      get capacity() {
        return pages.length * pageTokens
      },
    }
    rows.set(row.id, row)
    return row
  }

  function addKvPage({ id }: KvRow, page: number, content: PageContent): void {
    const row = rows.get(id)
    check(!isRunning && row !== undefined, 'a page was given to a row that runs or is gone')
    check(contents[page] !== undefined && !pageOwners.has(page), `page ${page} is not to be had`)
    if (content === 'filled') {
      check(row!.length === row!.capacity, 'a filled page follows one that is not full')
      check(contents[page]!.length === pageTokens, 'a filled page is not full')
      row!.length += pageTokens
    } else {
      contents[page] = []
    }
    pageOwners.set(page, id)
    row!.pages.push(page)
  }

  function copyKvPage(from: number, to: number): void {
    check(!isRunning && !pageOwners.has(to), `page ${to} was overwritten`)
    contents[to] = [...contents[from]!]
  }

  function freeKvRow({ id }: KvRow): void {
    check(!isRunning, 'a row was freed during a run')
    for (const page of rows.get(id)?.pages ?? []) pageOwners.delete(page)
    check(rows.delete(id), `row ${id} was freed twice`)
  }

  /** Appends a row's tokens; the hash of the last. */
  function append(row: ToyRow, { tokens, adapter }: StepRow): number {
    const last = row.length - 1
    const page = row.pages[Math.floor(last / pageTokens)]
    let hash = page === undefined ? hashText(adapter ?? '') : contents[page]![last % pageTokens]!
    for (const [index, token] of tokens.entries()) {
      hash = mix(mix(mix(hash, token + 1), index), tokens.length)
      contents[row.pages[Math.floor(row.length / pageTokens)]!]!.push(hash)
      row.length++
    }
    return hash
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
        const hash = append(row, step)
        if (step.wantStates) return Float32Array.of(step.tokens.length)
        if (!step.wantLogits) return null
        const logits = toyLogits(hash)
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
    kvPageTokens: pageTokens,
    kvPageCount: contents.length,
    createKvRow,
    addKvPage,
    copyKvPage,
    freeKvRow,
    run,
    liveRowCount: () => rows.size,
    stepSizes,
    pageOwners,
    chunks,
    misuse: null,
  }
  return toy
}

function mix(hash: number, value: number): number {
  const mixed = Math.imul(hash ^ value, 0x01000193)
  return mixed ^ (mixed >>> 15)
}

function hashText(text: string): number {
  return [...text].reduce((hash, unit) => mix(hash, unit.charCodeAt(0)), 0x811c9dc5)
}

function toyLogits(hash: number): Float32Array {
  return Float32Array.from({ length: TOY_VOCAB_SIZE }, (_, id) => {
    const mixed = Math.imul(hash ^ Math.imul(id + 1, 0x9e3779b1), 0x85ebca6b)
    return ((mixed ^ (mixed >>> 13)) >>> 0) / 2 ** 29 - 4
  })
}
