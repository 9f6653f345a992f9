import type { StepRow } from '../engine/model-runner.ts'
import {
  ATTENTION_ROWS,
  CAUSAL_MASK,
  MASKED,
  PAGE_LENGTH,
  POSITIONS,
  padTiles,
  type RowGroup,
  rowGroupInputs,
  STATE_TOKENS,
  WANTED_TOKENS,
} from '../model/graph-inputs.ts'
import type { GroupRanges, PageRange, RunningRow } from './kv-store.ts'
import type { Tensor } from './session.ts'

/** One row of a step, placed among the step's flat tokens. */
export interface PlacedRow extends RunningRow {
  readonly wantLogits: StepRow['wantLogits']
  readonly wantStates: boolean
}

export interface StepLayout {
  /** Decode rows first, then chunk rows, each in the order of their tokens. */
  readonly rows: readonly PlacedRow[]
  /** T. */
  readonly tokenCount: number
  readonly ranges: GroupRanges
  /** Query heads that share a key/value head. */
  readonly queryHeads: number
}

/** Every input of the graph but the embeddings, the cache's and `lora.*`. */
export function planFeeds(layout: StepLayout): Record<string, Tensor> {
  const { rows, tokenCount, ranges, queryHeads } = layout
  const decodeRows = rows.filter((row) => row.group === 'decode')
  const chunkRows = rows.filter((row) => row.group === 'chunk')
  const chunkLength = Math.max(1, ...chunkRows.map((row) => row.tokenCount))
  const positions = new Array<number>(tokenCount).fill(0)
  const attentionRows = new Array<number>(tokenCount).fill(0)
  const chunkStart = Math.max(1, decodeRows.length)
  decodeRows.forEach((row, b) => {
    positions[row.firstToken] = row.kv.length
    attentionRows[row.firstToken] = b
  })
  chunkRows.forEach((row, b) => {
    for (let s = 0; s < row.tokenCount; s++) {
      positions[row.firstToken + s] = row.kv.length + s
      attentionRows[row.firstToken + s] = chunkStart + b * chunkLength + s
    }
  })
  const wanted = rows.flatMap(listWantedTokens)
  const stated = rows.filter((row) => row.wantStates).flatMap(listTokens)
  return {
    [POSITIONS]: int64s(positions, [1, tokenCount]),
    [ATTENTION_ROWS]: int64s(attentionRows, [tokenCount]),
    [WANTED_TOKENS]: int64s(wanted.length > 0 ? wanted : [0], [Math.max(1, wanted.length)]),
    [STATE_TOKENS]: int64s(stated.length > 0 ? stated : [0], [Math.max(1, stated.length)]),
    [CAUSAL_MASK]: causalMask(chunkLength, queryHeads),
    ...planGroup('decode', decodeRows, { range: ranges.decode, chunkLength: 1 }),
    ...planGroup('chunk', chunkRows, { range: ranges.chunk, chunkLength }),
  }
}

function listWantedTokens({ firstToken, tokenCount, wantLogits }: PlacedRow): readonly number[] {
  if (wantLogits === 'all') return Array.from({ length: tokenCount }, (_, s) => firstToken + s)
  return wantLogits ? [firstToken + tokenCount - 1] : []
}

function listTokens({ firstToken, tokenCount }: PlacedRow): number[] {
  return Array.from({ length: tokenCount }, (_, s) => firstToken + s)
}

function planGroup(
  group: RowGroup,
  rows: readonly PlacedRow[],
  { range, chunkLength }: { readonly range: PageRange; readonly chunkLength: number },
): Record<string, Tensor> {
  const inputs = rowGroupInputs(group)
  const rowCount = Math.max(1, rows.length)
  const tokens = new Array<number>(rowCount * chunkLength).fill(0)
  rows.forEach(({ firstToken, tokenCount }, b) => {
    for (let s = 0; s < chunkLength; s++) {
      tokens[b * chunkLength + s] = firstToken + Math.min(s, tokenCount - 1)
    }
  })
  return {
    [inputs.on]: { data: Uint8Array.of(rows.length > 0 ? 1 : 0), dims: [] },
    [inputs.tokens]: int64s(tokens, group === 'decode' ? [rowCount] : [rowCount, chunkLength]),
    ...planPages(group, rows, range),
    ...planTiles(group, rows, range),
  }
}

function planPages(
  group: RowGroup,
  rows: readonly PlacedRow[],
  range: PageRange,
): Record<string, Tensor> {
  const pageRows = new Array<number>(range.count).fill(0)
  const mask = new Float32Array(range.count * PAGE_LENGTH).fill(MASKED)
  rows.forEach(({ kv }, b) => {
    kv.pages.forEach((page, p) => {
      const at = range.indexOf(page)
      const filled = Math.min(PAGE_LENGTH, kv.length - p * PAGE_LENGTH)
      pageRows[at] = b
      mask.fill(0, at * PAGE_LENGTH, at * PAGE_LENGTH + filled)
    })
  })
  const inputs = rowGroupInputs(group)
  return {
    [inputs.pageRows]: int64s(pageRows, [range.count]),
    [inputs.pageMask]: { data: mask, dims: [range.count, 1, 1, 1, PAGE_LENGTH] },
  }
}

function planTiles(
  group: RowGroup,
  rows: readonly PlacedRow[],
  range: PageRange,
): Record<string, Tensor> {
  const rowCount = Math.max(1, rows.length)
  const tileCount = padTiles(1 + Math.max(0, ...rows.map(({ kv }) => kv.pages.length)))
  const tiles = new Array<number>(tileCount * rowCount).fill(0)
  const mask = new Float32Array(tileCount * rowCount)
  rows.forEach(({ kv }, b) => {
    for (let w = 0; w < tileCount; w++) {
      const page = w === 0 ? undefined : kv.pages[w - 1]
      tiles[w * rowCount + b] = page === undefined ? b : rowCount + range.indexOf(page)
      mask[w * rowCount + b] = w > kv.pages.length ? MASKED : 0
    }
  })
  const inputs = rowGroupInputs(group)
  return {
    [inputs.tiles]: int64s(tiles, [tileCount, rowCount]),
    [inputs.tileMask]: { data: mask, dims: [tileCount, rowCount, 1, 1, 1, 1] },
    [inputs.tileOnes]: ones(tileCount),
  }
}

/** For each of the query heads, what a chunk's token s may not see of its own chunk. */
function causalMask(chunkLength: number, queryHeads: number): Tensor {
  const mask = new Float32Array(queryHeads * chunkLength * chunkLength)
  for (let row = 0; row < queryHeads * chunkLength; row++) {
    mask.fill(MASKED, row * chunkLength + (row % chunkLength) + 1, (row + 1) * chunkLength)
  }
  return { data: mask, dims: [queryHeads * chunkLength, chunkLength] }
}

/** [1, count]. */
export function ones(count: number): Tensor {
  return { data: new Float32Array(count).fill(1), dims: [1, count] }
}

export function int64s(values: readonly number[], dims: readonly number[]): Tensor {
  return { data: BigInt64Array.from(values, BigInt), dims }
}
