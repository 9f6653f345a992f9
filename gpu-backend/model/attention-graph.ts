import {
  CAUSAL_MASK,
  cacheInput,
  cacheOutput,
  type KvForm,
  type KvLocation,
  type KvPart,
  listKvParts,
  NEW_SLOTS,
  PAGE_LENGTH,
  pagesInput,
  peaksInput,
  type RowGroup,
  rowGroupInputs,
} from './graph-inputs.ts'
import type { ModelConfig } from './model-source.ts'
import type { OnnxGraph } from './onnx-writer.ts'
import { scoreIntegers, weighIntegers } from './quantised-pages.ts'

export interface AttentionHeads {
  /** Rotated queries, [T, KV, N/KV, 1, D]. */
  readonly q: string
  /** Rotated keys, [T, KV, 1, 1, D]. */
  readonly k: string
  readonly v: string
}

export interface AttentionOptions {
  readonly layer: number
  readonly config: ModelConfig
  readonly kvLocation: KvLocation
  /** `int8` on the host only. */
  readonly kvForm: KvForm
}

interface GroupOptions extends AttentionOptions {
  readonly group: RowGroup
}

/** Declares what both groups are fed: the rows, and the pages of every layer. */
export function addAttentionInputs(
  graph: OnnxGraph,
  { config, kvLocation, kvForm }: Omit<AttentionOptions, 'layer'>,
): void {
  for (const group of ['decode', 'chunk'] as const) {
    const inputs = rowGroupInputs(group)
    graph.input(inputs.on, 'bool', [])
    graph.input(inputs.tokens, 'int64', group === 'decode' ? ['Bd'] : ['Bc', 'S'])
    graph.input(inputs.pageRows, 'int64', [`P_${group}`])
    graph.input(inputs.pageMask, 'float32', [`P_${group}`, 1, 1, 1, PAGE_LENGTH])
    graph.input(inputs.tiles, 'int64', [`W_${group}`, `B_${group}`])
    graph.input(inputs.tileMask, 'float32', [`W_${group}`, `B_${group}`, 1, 1, 1, 1])
    graph.input(inputs.tileOnes, 'float32', [1, `W_${group}`])
    if (kvLocation === 'device') {
      graph.input(inputs.pages, 'int64', [`P_${group}`])
      continue
    }
    for (const kvPart of listKvParts(config.layerCount)) {
      addPagesInput(graph, kvPart, { group, config, kvForm })
    }
  }
  graph.input(CAUSAL_MASK, 'float32', ['GS', 'S'])
  if (kvLocation === 'host') return
  graph.input(NEW_SLOTS, 'int64', ['T', config.kvHeadCount, 4])
  for (const kvPart of listKvParts(config.layerCount)) {
    graph.input(cacheInput(kvPart), 'float32', pageDims(config, 'pages'))
  }
}

function addPagesInput(
  graph: OnnxGraph,
  kvPart: KvPart,
  { group, config, kvForm }: Pick<GroupOptions, 'group' | 'config' | 'kvForm'>,
): void {
  const pages = `P_${group}`
  const dims = pageDims(config, pages)
  if (kvForm === 'float32') {
    graph.input(pagesInput(group, kvPart), 'float32', dims)
    return
  }
  const { kvHeadCount, headSize } = config
  const across = [pages, kvHeadCount, 1, headSize, PAGE_LENGTH]
  graph.input(pagesInput(group, kvPart), 'int8', kvPart.part === 'k' ? across : dims)
  graph.input(peaksInput(group, kvPart), 'float32', [pages, kvHeadCount, 1, 1, PAGE_LENGTH])
}

/** Writes a layer's new keys and values into the cache on the device. */
export function addCacheUpdate(
  graph: OnnxGraph,
  heads: AttentionHeads,
  { layer, config }: { readonly layer: number; readonly config: ModelConfig },
): void {
  const { kvHeadCount, headSize } = config
  for (const part of ['k', 'v'] as const) {
    const updates = graph.node('Reshape', [heads[part], graph.ints([-1, kvHeadCount, headSize])])
    const output = cacheOutput({ part, layer })
    graph.node('ScatterND', [cacheInput({ part, layer }), NEW_SLOTS, updates], {}, output)
    graph.output(output, 'float32', pageDims(config, 'pages'))
  }
}

export function pageDims<P extends number | string>(
  { kvHeadCount, headSize }: ModelConfig,
  pages: P,
): (P | number)[] {
  return [pages, kvHeadCount, 1, PAGE_LENGTH, headSize]
}

/**
 * Attention of one group's rows in one layer: [B · S, N · D], a row's tokens in order; one row of
 * zeros where the group is off.
 *
 * A row attends to tiles: its own new tokens, and each page of its past. Every tile gives its own
 * softmax-weighted values, and these are averaged by the tiles' denominators (flash decoding, "split
 * K"). So the cost follows the pages in use rather than the longest row, pages lie anywhere, and
 * since each product has the same shape whatever the batch, so has each sum the same order.
 */
export function addGroupAttention(
  graph: OnnxGraph,
  heads: AttentionHeads,
  options: GroupOptions,
): string {
  const { group, config } = options
  const { headCount, kvHeadCount, headSize } = config
  const queriesSize = headCount * headSize
  return graph.either(
    rowGroupInputs(group).on,
    (branch) => {
      const rows = pickRows(branch, heads, options)
      const own = addOwnTiles(branch, rows, options)
      const past = addPageTiles(branch, rows.q, options)
      const sums = combineTiles(branch, own, past, group)
      if (group === 'decode') {
        return branch.node('Reshape', [sums, branch.ints([-1, queriesSize])])
      }
      const output = branch.node('Reshape', [sums, branch.node('Shape', [rows.q])])
      const split = branch.ints([0, kvHeadCount, headCount / kvHeadCount, -1, headSize])
      const byHead = branch.node('Reshape', [output, split]) // [B, KV, G, S, D]
      const byToken = branch.node('Transpose', [byHead], { perm: [0, 3, 1, 2, 4] })
      return branch.node('Reshape', [byToken, branch.ints([-1, queriesSize])])
    },
    (branch) => branch.node('ConstantOfShape', [branch.ints([1, queriesSize])]),
  )
}

/**
 * The group's rows: k and v [B, KV, 1, S, D]; q [B, KV, 1, G·S, D], but [B, KV, G, 1, D] for decode over
 * pages of float32, where a product of one row each reads the keys in place: of several rows it would
 * copy them into another order first, which costs more than to read them G times.
 */
function pickRows(
  graph: OnnxGraph,
  heads: AttentionHeads,
  { group, config, kvForm }: GroupOptions,
): AttentionHeads {
  const { tokens } = rowGroupInputs(group)
  const dims = graph.ints([0, config.kvHeadCount, 1, -1, config.headSize])
  const pick = (value: string) => {
    const rows = graph.node('Gather', [value, tokens], { axis: 0 })
    if (group === 'decode') {
      return kvForm === 'int8' && value === heads.q ? graph.node('Reshape', [rows, dims]) : rows
    }
    const byHead = graph.node('Transpose', [rows], { perm: [0, 2, 3, 4, 1, 5] })
    return graph.node('Reshape', [byHead, dims])
  }
  return { q: pick(heads.q), k: pick(heads.k), v: pick(heads.v) }
}

/** What tiles give, in the dims of q but for the last. */
interface Tiles {
  /** [… D]: weighted by the softmax. */
  readonly values: string
  /** [… 1]: the highest score, and its weight: the softmax's denominator is `exp(peak) / peakWeight`. */
  readonly peak: string
  readonly peakWeight: string
}

/** A tile a row: its own new tokens. */
function addOwnTiles(
  graph: OnnxGraph,
  { q, k, v }: AttentionHeads,
  { group, config, kvForm }: GroupOptions,
): Tiles {
  const scores = graph.timesTransposed(q, k, 5)
  if (group === 'chunk') {
    const masked = graph.node('Add', [scores, CAUSAL_MASK])
    return attend(graph, masked, (weights) => graph.node('MatMul', [weights, v]))
  }
  const perKey = config.headCount / config.kvHeadCount
  const copies = kvForm === 'int8' ? [1, 1, 1, perKey, 1] : [1, 1, perKey, 1, 1]
  const values = perKey === 1 ? v : graph.node('Expand', [v, graph.ints(copies)])
  return { values, peak: scores, peakWeight: graph.node('Softmax', [scores], { axis: -1 }) } // 1
}

/** A tile a page of the rows' past. */
function addPageTiles(graph: OnnxGraph, q: string, options: GroupOptions): Tiles {
  const { group, layer, kvForm } = options
  const { pageRows, pageMask } = rowGroupInputs(group)
  if (kvForm === 'int8') return addIntegerTiles(graph, q, options)
  const queries = graph.node('Gather', [q, pageRows], { axis: 0 })
  const keys = pickPages(graph, { part: 'k', layer }, options)
  const scores = graph.timesTransposed(queries, keys, 5)
  const masked = graph.node('Add', [scores, pageMask])
  const values = pickPages(graph, { part: 'v', layer }, options)
  return attend(graph, masked, (weights) => graph.node('MatMul', [weights, values]))
}

/** The same over pages of int8. */
function addIntegerTiles(graph: OnnxGraph, q: string, { group, layer }: GroupOptions): Tiles {
  const { pageRows, pageMask } = rowGroupInputs(group)
  const pages = (part: KvPart['part']) => ({
    integers: pagesInput(group, { part, layer }),
    peaks: peaksInput(group, { part, layer }),
  })
  const scores = graph.node('Add', [scoreIntegers(graph, q, pageRows, pages('k')), pageMask])
  return attend(graph, scores, (weights) => weighIntegers(graph, weights, pages('v')))
}

/** The group's pages [P, KV, 1, 64, D]. */
function pickPages(graph: OnnxGraph, kvPart: KvPart, { group, kvLocation }: GroupOptions): string {
  if (kvLocation === 'host') return pagesInput(group, kvPart)
  return graph.node('Gather', [cacheInput(kvPart), rowGroupInputs(group).pages], { axis: 0 })
}

/** `weigh` gives the sum of the values by their weights. */
function attend(graph: OnnxGraph, scores: string, weigh: (weights: string) => string): Tiles {
  const weights = graph.node('Softmax', [scores], { axis: -1 })
  const highest = (of: string) => graph.node('ReduceMax', [of], { axes: [-1], keepdims: 1 })
  return {
    values: weigh(weights),
    peak: highest(scores),
    peakWeight: highest(weights),
  }
}

/** The rows' values, flat, in the order of q. The sums run over the outermost axis, so their order is the tiles' order. */
function combineTiles(graph: OnnxGraph, own: Tiles, past: Tiles, group: RowGroup): string {
  const { tiles, tileMask, tileOnes } = rowGroupInputs(group)
  const gather = (part: keyof Tiles) => {
    const all = graph.node('Concat', [own[part], past[part]], { axis: 0 })
    return graph.node('Gather', [all, tiles], { axis: 0 }) // [W, B, KV, …]
  }
  const peaks = graph.node('Add', [gather('peak'), tileMask])
  const shares = graph.node('Softmax', [peaks], { axis: 0 })
  const weights = graph.node('Div', [shares, gather('peakWeight')])
  const total = graph.node('ReduceSum', [weights, graph.ints([0])], { keepdims: 1 })
  const weighted = graph.node('Mul', [gather('values'), graph.node('Div', [weights, total])])
  return graph.sumOuter(weighted, tileOnes)
}
