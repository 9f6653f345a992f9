import {
  LINEAR_GROUPS,
  type LinearGroup,
  loraDownInput,
  loraInputs,
  loraUpInput,
  RANK_TILE,
} from './graph-inputs.ts'
import type { LinearWeights } from './model-source.ts'
import type { OnnxGraph } from './onnx-writer.ts'

/** 0: float32 activations, exact. 4: int8 activations in blocks, fast. See MatMulNBits. */
export type AccuracyLevel = 0 | 4

export interface LinearOptions {
  readonly name: string
  /** Values of one input. */
  readonly inputSize: number
  readonly accuracyLevel: AccuracyLevel
}

const BLOCK_LENGTH = 32

/** `x [T, in] → x · Wᵀ [T, out]`, the outputs of `parts` side by side. */
export function addLinear(
  graph: OnnxGraph,
  x: string,
  parts: readonly LinearWeights[],
  options: LinearOptions,
): string {
  const merged = mergeParts(parts)
  if (merged) return addWeights(graph, x, merged, options)
  const outputs = parts.map((part, i) =>
    addWeights(graph, x, part, { ...options, name: `${options.name}.${i}` }),
  )
  return graph.node('Concat', outputs, { axis: 1 })
}

/**
 * `y + delta`, delta being each token's own adapter's `(x · Aᵀ) · B`, where an adapter is at work.
 *
 * Each tile of 16 ranks a layer multiplies the tokens of its adapter, one row a product; then each token sums
 * the results of its tiles in their order. So the work follows the ranks that a token uses, no result
 * depends on the batch, to the last bit, and nothing of another adapter can leak, not even a NaN.
 */
export function addLora(
  graph: OnnxGraph,
  y: string,
  x: string,
  { group, layer, outputSize }: { group: LinearGroup; layer: number; outputSize: number },
): string {
  const { on, tokens, results, isResult } = loraInputs(group)
  return graph.either(
    on,
    (branch) => {
      const rows = branch.node('Gather', [x, tokens], { axis: 0 }) // [P, M, 1, in]
      const ranks = branch.timesTransposed(rows, loraDownInput(group, layer), 4) // [P, M, 1, 16 · n]
      const products = addLoraUp(branch, ranks, { group, layer }) // [P, M, 1, out]
      const flat = branch.node('Reshape', [products, branch.ints([-1, outputSize])])
      const byToken = branch.node('Gather', [flat, results], { axis: 0 }) // [W, T, out]
      const own = branch.node('Where', [isResult, byToken, branch.float(0)])
      const deltas = branch.node('ReduceSum', [own, branch.ints([0])], { keepdims: 0 })
      return branch.node('Add', [y, deltas])
    },
    (branch) => branch.node('Identity', [y]),
  )
}

/** Each linear layer's ranks times its own B, side by side. */
function addLoraUp(
  graph: OnnxGraph,
  ranks: string,
  { group, layer }: { group: LinearGroup; layer: number },
): string {
  const linears = LINEAR_GROUPS[group]
  const sizes = graph.ints(linears.map(() => RANK_TILE))
  const parts =
    linears.length > 1 ? graph.split(ranks, sizes, { axis: 3, count: linears.length }) : [ranks]
  const outputs = linears.map((linear, i) =>
    graph.node('MatMul', [parts[i] ?? '', loraUpInput(linear, layer)]),
  )
  const [only = ''] = outputs
  return outputs.length > 1 ? graph.node('Concat', outputs, { axis: 3 }) : only
}

function addWeights(
  graph: OnnxGraph,
  x: string,
  weights: LinearWeights,
  options: LinearOptions,
): string {
  const { name, inputSize } = options
  if (weights.form === 'f32') {
    const outputSize = weights.values.length / inputSize
    const w = graph.initializer(name, weights.values, [outputSize, inputSize])
    return graph.timesTransposed(x, w, 2)
  }
  const bits = weights.form === 'q4' ? 4 : 8
  const blockCount = inputSize / BLOCK_LENGTH
  const outputSize = weights.scales.length / blockCount
  const bytes = weights.form === 'q4' ? weights.quants : addZeroPoint(weights.quants)
  const y = graph.microsoftNode(
    'MatMulNBits',
    [
      x,
      graph.initializer(`${name}.quants`, bytes, [outputSize, blockCount, 4 * bits]),
      graph.initializer(`${name}.scales`, weights.scales, [weights.scales.length]),
    ],
    {
      K: inputSize,
      N: outputSize,
      bits,
      block_size: BLOCK_LENGTH,
      accuracy_level: options.accuracyLevel,
    },
  )
  return weights.form === 'q4' ? addCorrection(graph, y, x, { name, weights, blockCount }) : y
}

/**
 * MatMulNBits computes with `scale · (q − 8)`; the weights are `scale · q + min`. The difference,
 * `8 · scale + min`, is constant in a block: the blocks' sums of x times it, exact.
 */
function addCorrection(
  graph: OnnxGraph,
  y: string,
  x: string,
  linear: { name: string; weights: LinearWeights & { form: 'q4' }; blockCount: number },
): string {
  const { scales, mins } = linear.weights
  const offsets = scales.map((scale, i) => (mins[i] ?? 0) + 8 * scale)
  if (offsets.every((offset) => offset === 0)) return y
  const { name, blockCount } = linear
  const c = graph.initializer(`${name}.offsets`, offsets, [scales.length / blockCount, blockCount])
  const blocks = graph.node('Reshape', [x, graph.ints([0, blockCount, BLOCK_LENGTH])])
  const sums = graph.node('ReduceSum', [blocks, graph.ints([2])], { keepdims: 0 }) // [T, blocks]
  return graph.node('Gemm', [sums, c, y], { transB: 1 })
}

/** int8 as MatMulNBits wants it: unsigned, zero at 128. */
function addZeroPoint(quants: Int8Array): Uint8Array {
  return Uint8Array.from(quants, (quant) => quant + 128)
}

/** The rows of all parts under each other; null where their forms differ. */
function mergeParts(parts: readonly LinearWeights[]): LinearWeights | null {
  const [first] = parts
  if (first && parts.length === 1) return first
  if (areAll(parts, 'f32')) {
    return { form: 'f32', values: concat(Float32Array, parts, (part) => part.values) }
  }
  if (areAll(parts, 'q4')) {
    return {
      form: 'q4',
      quants: concat(Uint8Array, parts, (part) => part.quants),
      scales: concat(Float32Array, parts, (part) => part.scales),
      mins: concat(Float32Array, parts, (part) => part.mins),
    }
  }
  if (areAll(parts, 'q8')) {
    return {
      form: 'q8',
      quants: concat(Int8Array, parts, (part) => part.quants),
      scales: concat(Float32Array, parts, (part) => part.scales),
    }
  }
  return null
}

function areAll<F extends LinearWeights['form']>(
  parts: readonly LinearWeights[],
  form: F,
): parts is readonly Extract<LinearWeights, { form: F }>[] {
  return parts.every((part) => part.form === form)
}

function concat<P, T extends Float32Array | Uint8Array | Int8Array>(
  Kind: new (length: number) => T,
  parts: readonly P[],
  pick: (part: P) => T,
): T {
  const arrays = parts.map(pick)
  const merged = new Kind(arrays.reduce((length, array) => length + array.length, 0))
  let offset = 0
  for (const array of arrays) {
    merged.set(array, offset)
    offset += array.length
  }
  return merged
}
