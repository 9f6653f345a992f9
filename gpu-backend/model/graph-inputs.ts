import { type LinearName, linearSizes, type ModelConfig } from './model-source.ts'

/**
 * What the graph of `llama-graph.ts` and its feeder agree on. Letters as in `model-source.ts`, and
 * T tokens of the step, B rows of a group, S tokens a row of the group (1 in the decode group),
 * P pages of the group, W tiles a row at most, N rows whose logits are wanted, M tokens whose states
 * are.
 *
 * No tensor is ever empty (WebGPU refuses that): a group that is off, or has no past, gets one
 * dummy page that no tile names.
 */

/** Linear layers that share an input run as one. */
export const LINEAR_GROUPS = {
  qkv: ['q', 'k', 'v'],
  o: ['o'],
  gateUp: ['gate', 'up'],
  down: ['down'],
} as const satisfies Record<string, readonly LinearName[]>

export type LinearGroup = keyof typeof LINEAR_GROUPS

export const LINEAR_GROUP_NAMES = ['qkv', 'o', 'gateUp', 'down'] as const

/** Inputs and outputs of a group's layers, the outputs side by side. */
export function groupSize(config: ModelConfig, group: LinearGroup) {
  const sizes = linearSizes(config)
  const linears = LINEAR_GROUPS[group]
  const outputSize = linears.reduce((sum, linear) => sum + sizes[linear][1], 0)
  return { inputSize: sizes[linears[0]][0], outputSize }
}

/** Rows of a step attend in one of two groups: those of one token, and those of a chunk. */
export type RowGroup = 'decode' | 'chunk'

/** Positions of one page of the KV cache. */
export const PAGE_LENGTH = 64

/** LoRA ranks of a linear layer are multiplied in tiles of this many. */
export const RANK_TILE = 16

/** Stands for −∞ in additive masks, where −∞ − −∞ would make NaN. */
export const MASKED = -1e30

/** Rows of the embedding table: [T, H] float32. */
export const EMBEDDINGS = 'embeddings'
/** [1, T] int64. */
export const POSITIONS = 'positions'
/** Tokens whose logits are wanted: [N] int64. */
export const WANTED_TOKENS = 'wanted_tokens'
/**
 * [T] int64: for each token, its row among the decode group's outputs followed by the chunk
 * group's. A group that is off counts as one row.
 */
export const ATTENTION_ROWS = 'attention_rows'

/** [N, V] float32. */
export const LOGITS = 'logits'
/** Tokens whose states are wanted: [M] int64. */
export const STATE_TOKENS = 'state_tokens'
/** The states of {@link STATE_TOKENS} after the final norm: [M, H] float32. */
export const STATES = 'states'
/**
 * Where the KV cache lies. On the host, JavaScript feeds the pages that a step reads, and appends what comes out.
 * On the device, the whole cache is fed and the graph reads and writes its pages by number.
 */
export type KvLocation = 'host' | 'device'

/**
 * What pages on the host hold. `int8`: each head of a token in int8, and its largest value's size, which
 * stands for 127. A key lies across its page, [D, 64], as products of integers want it.
 */
export type KvForm = 'float32' | 'int8'

/** On the host: the step's keys and values, [2L · T, KV, 1, 1, D] float32, T rows a layer of keys (rotated), then of values. */
export const PRESENT = 'present'

/** The same in int8. */
export const PRESENT_INTEGERS = 'present.integers'

/** [2L · T, KV, 1, 1, 1] float32: what 127 stands for in each head of {@link PRESENT_INTEGERS}. */
export const PRESENT_PEAKS = 'present.peaks'

/** On the device: where the step's tokens are written, [T, KV, 4] int64: page, head, 0, position in the page. */
export const NEW_SLOTS = 'new_slots'

/** Keys or values of one layer. */
export interface KvPart {
  readonly part: 'k' | 'v'
  readonly layer: number
}

export function listKvParts(layerCount: number): KvPart[] {
  return Array.from({ length: 2 * layerCount }, (_, i) => ({
    part: i % 2 ? 'v' : 'k',
    layer: i >> 1,
  }))
}

/** On the device: all pages, [pages, KV, 1, 64, D] float32. */
export function cacheInput({ part, layer }: KvPart): string {
  return `cache.${part}.${layer}`
}

/** The same memory as {@link cacheInput}, written to. */
export function cacheOutput({ part, layer }: KvPart): string {
  return `cache.${part}.${layer}.next`
}

/**
 * - `on` [] bool: whether the group has rows.
 * - `tokens` [B, S] int64 (decode: [B]): tokens of each row; padding repeats a token of the row.
 * - `pages` [P] int64 (on the device only): their numbers.
 * - `pageRows` [P] int64: the row that a page belongs to.
 * - `pageMask` [P, 1, 1, 1, 64] float32: 0 where the page holds a token, else MASKED.
 * - `tiles` [W, B] int64: what a row attends to: its own new tokens (tile b), then its pages in
 *   order (tile B + p), then its own new tokens again as padding.
 * - `tileMask` [W, B, 1, 1, 1, 1] float32: 0, or MASKED for padding.
 * - `tileOnes` [1, W] float32: ones. See {@link padTiles}.
 */
export function rowGroupInputs(group: RowGroup) {
  return {
    on: `${group}.on`,
    tokens: `${group}.tokens`,
    pages: `${group}.pages`,
    pageRows: `${group}.page_rows`,
    pageMask: `${group}.page_mask`,
    tiles: `${group}.tiles`,
    tileMask: `${group}.tile_mask`,
    tileOnes: `${group}.tile_ones`,
  }
}

/** [N/KV · S, S] float32: 0 up to a token itself, MASKED after it. */
export const CAUSAL_MASK = 'chunk.causal_mask'

/**
 * Tiles, the outermost axis, are summed by a product with a row of ones: `ReduceSum` takes ten times as long
 * there. ONNX Runtime sums such a product in fours, so their number is one for which zeros at the end
 * change nothing: up to 4, or a multiple of it. A row's sum is then the same beside rows of more tiles.
 */
export function padTiles(tileCount: number): number {
  return tileCount <= 4 ? tileCount : 4 * Math.ceil(tileCount / 4)
}

/** On the host: the group's pages, [P, KV, 1, 64, D]; keys in int8 [P, KV, 1, D, 64]. */
export function pagesInput(group: RowGroup, { part, layer }: KvPart): string {
  return `${group}.${part}.${layer}`
}

/** [P, KV, 1, 1, 64] float32: what 127 stands for in each head of a page in int8. */
export function peaksInput(group: RowGroup, { part, layer }: KvPart): string {
  return `${group}.${part}_peaks.${layer}`
}

/**
 * P tiles of the group, M tokens a tile at most, W tiles a token at most. An adapter's ranks fill tiles
 * of their own; a tile has 16 ranks of each of the group's linear layers. Tiles with many more tokens than
 * the others are copied in the run, Q copies with N tokens at most, so that the others need not be as wide.
 * P and Q are at least 2, or ONNX Runtime would take all products for one and sum in another order.
 * - `on` [] bool: whether the step has an adapter for this group of layers.
 * - `tokens` [P, M, 1] int64: the tokens that a tile multiplies; padding repeats any token.
 * - `isCopied` [] bool: whether the step has copies.
 * - `copies` [Q] int64: the tile that each is of.
 * - `copyTokens` [Q, N, 1] int64: as `tokens`.
 * - `results` [W, T] int64: for each token, its results among the P · M and then the Q · N, in the order of
 *   its tiles.
 * - `isResult` [W, T, 1] bool: false for padding, and for tokens of the base model.
 * - `resultOnes` [1, W] float32: ones. See {@link padTiles}.
 */
export function loraInputs(group: LinearGroup) {
  return {
    on: `lora.${group}.on`,
    tokens: `lora.${group}.tokens`,
    isCopied: `lora.${group}.is_copied`,
    copies: `lora.${group}.copies`,
    copyTokens: `lora.${group}.copy_tokens`,
    results: `lora.${group}.results`,
    isResult: `lora.${group}.is_result`,
    resultOnes: `lora.${group}.result_ones`,
  }
}

/** [P, 1, 16 · n, in]: the ranks of the group's n linear layers under each other. */
export function loraDownInput(group: LinearGroup, layer: number): string {
  return `lora.${group}.a.${layer}`
}

/** [P, 1, 16, out], scale folded in. */
export function loraUpInput(linear: LinearName, layer: number): string {
  return `lora.${linear}.b.${layer}`
}
