import { type LinearGroup, loraInputs, padTiles } from '../model/graph-inputs.ts'
import { int64s, ones } from './feeds.ts'
import type { Tensor } from './session.ts'

/** One adapter's consecutive tiles in a run of a group of linear layers. */
export interface RunSlot {
  /** The first tile of those that are fed, and how many. */
  readonly start: number
  readonly size: number
  /** Its tokens, in order. */
  readonly tokens: readonly number[]
}

/** Products of a token by a tile are done for all tiles and copies in rectangles, filled or not. */
export interface ProductPlan {
  /** Tokens of a tile (M of `loraInputs`): slots with more use copies. */
  readonly width: number
  /** Tokens of a copy (N), and how many copies (Q): 0 where no slot uses them. */
  readonly copyWidth: number
  readonly copyCount: number
}

/** ONNX Runtime takes the products of one tile for one, see `loraInputs`. */
export const MIN_TILES = 2

const COPY_WIDTHS = [8, 16, 32, 64]

/** What it takes to copy a tile, in products of a token by a tile; measured: docs/LOG.md. */
const COPY_COST = 4

/** What the branch for copies takes beside that, likewise. */
const BRANCH_COST = 16

/** The rectangles that take the least work: beside a chunk, rows that decode need not be as wide as it is. */
export function planProducts(slots: readonly RunSlot[], tileCount: number): ProductPlan {
  const widths = new Set([1, ...slots.map(({ tokens }) => tokens.length)])
  const plans = [...widths].flatMap((width): ProductPlan[] => {
    const wide = slots.filter(({ tokens }) => tokens.length > width)
    if (wide.length === 0) return [{ width, copyWidth: 1, copyCount: 0 }]
    return COPY_WIDTHS.map((copyWidth) => {
      const count = wide.reduce((sum, slot) => sum + countCopies(slot, copyWidth), 0)
      return { width, copyWidth, copyCount: Math.max(MIN_TILES, count) }
    })
  })
  const costOf = ({ width, copyWidth, copyCount }: ProductPlan) =>
    tileCount * width + copyCount * (copyWidth + COPY_COST) + (copyCount > 0 ? BRANCH_COST : 0)
  return plans.reduce((best, plan) => (costOf(plan) < costOf(best) ? plan : best))
}

/** The inputs of `loraInputs` that say which tokens a run's tiles multiply. */
export function feedProducts(
  group: LinearGroup,
  { slots, tileCount, tokenCount }: ProductRun,
): Record<string, Tensor> {
  const { width, copyWidth, copyCount } = planProducts(slots, tileCount)
  const depth = padTiles(Math.max(1, ...slots.map(({ size }) => size))) // W
  const tokens = new Array<number>(tileCount * width).fill(0)
  const copies = new Array<number>(Math.max(MIN_TILES, copyCount)).fill(0)
  const copyTokens = new Array<number>(copies.length * copyWidth).fill(0)
  const results = new Array<number>(depth * tokenCount).fill(0)
  const isResult = new Uint8Array(results.length)
  let copy = 0
  for (const slot of slots) {
    const isCopied = slot.tokens.length > width
    for (let w = 0; w < slot.size; w++) {
      const tile = slot.start + w
      slot.tokens.forEach((token, m) => {
        let result = tile * width + m
        if (isCopied) {
          const at = copy * copyWidth + m
          copies[Math.floor(at / copyWidth)] = tile
          copyTokens[at] = token
          result = tokens.length + at
        } else tokens[result] = token
        results[w * tokenCount + token] = result
        isResult[w * tokenCount + token] = 1
      })
      if (isCopied) copy += Math.ceil(slot.tokens.length / copyWidth)
    }
  }
  const inputs = loraInputs(group)
  return {
    [inputs.on]: { data: Uint8Array.of(slots.length > 0 ? 1 : 0), dims: [] },
    [inputs.tokens]: int64s(tokens, [tileCount, width, 1]),
    [inputs.isCopied]: { data: Uint8Array.of(copyCount > 0 ? 1 : 0), dims: [] },
    [inputs.copies]: int64s(copies, [copies.length]),
    [inputs.copyTokens]: int64s(copyTokens, [copies.length, copyWidth, 1]),
    [inputs.results]: int64s(results, [depth, tokenCount]),
    [inputs.isResult]: { data: isResult, dims: [depth, tokenCount, 1] },
    [inputs.resultOnes]: ones(depth),
  }
}

export interface ProductRun {
  readonly slots: readonly RunSlot[]
  /** Tiles that are fed (P). */
  readonly tileCount: number
  /** Tokens of the run (T). */
  readonly tokenCount: number
}

/** For each of its tiles, as many copies as its tokens fill. */
function countCopies({ size, tokens }: RunSlot, copyWidth: number): number {
  return size * Math.ceil(tokens.length / copyWidth)
}
