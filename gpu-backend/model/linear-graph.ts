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
import { rotationMatrix, rotationSize } from './rotation.ts'

/** Of weights in blocks. 0: float32 activations, exact. 4: int8 activations in blocks, fast. See MatMulNBits. */
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
 * Each tile of 16 ranks a layer, or a copy of it, multiplies the tokens of its adapter, one row a product; then each token sums
 * the results of its tiles in their order. So the work follows the ranks that a token uses, no result
 * depends on the batch, to the last bit, and nothing of another adapter can leak, not even a NaN.
 */
export function addLora(
  graph: OnnxGraph,
  y: string,
  x: string,
  { outputSize, ...place }: LoraPlace,
): string {
  const { on, tokens, isCopied, copies, copyTokens, results, isResult, resultOnes } = loraInputs(
    place.group,
  )
  return graph.either(
    on,
    (branch) => {
      const options = { ...place, outputSize }
      const products = addProducts(branch, x, tokens, { ...options, tilesOf: (input) => input })
      const all = branch.either(
        isCopied,
        (copied) => {
          const tilesOf = (input: string) => copied.node('Gather', [input, copies], { axis: 0 })
          const more = addProducts(copied, x, copyTokens, { ...options, tilesOf })
          return copied.node('Concat', [products, more], { axis: 0 })
        },
        (plain) => plain.node('Identity', [products]),
      )
      const byToken = branch.node('Gather', [all, results], { axis: 0 }) // [W, T, out]
      const own = branch.node('Where', [isResult, byToken, branch.float(0)])
      const sums = branch.sumOuter(own, resultOnes)
      const deltas = branch.node('Reshape', [sums, branch.ints([-1, outputSize])])
      return branch.node('Add', [y, deltas])
    },
    (branch) => branch.node('Identity', [y]),
  )
}

interface LoraPlace {
  readonly group: LinearGroup
  readonly layer: number
  readonly outputSize: number
}

/** `tokens` [P, M, 1] of x, each times the tile of its row: [P · M, out]. */
function addProducts(
  graph: OnnxGraph,
  x: string,
  tokens: string,
  options: LoraPlace & { readonly tilesOf: (input: string) => string },
): string {
  const { group, layer, outputSize, tilesOf } = options
  const linears = LINEAR_GROUPS[group]
  const rows = graph.node('Gather', [x, tokens], { axis: 0 }) // [P, M, 1, in]
  const ranks = graph.timesTransposed(rows, tilesOf(loraDownInput(group, layer)), 4) // [P, M, 1, 16 · n]
  const sizes = graph.ints(linears.map(() => RANK_TILE))
  const parts =
    linears.length > 1 ? graph.split(ranks, sizes, { axis: 3, count: linears.length }) : [ranks]
  const outputs = linears.map((linear, i) =>
    graph.node('MatMul', [parts[i] ?? '', tilesOf(loraUpInput(linear, layer))]),
  )
  const [only = ''] = outputs
  const products = outputs.length > 1 ? graph.node('Concat', outputs, { axis: 3 }) : only
  return graph.node('Reshape', [products, graph.ints([-1, outputSize])])
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
  if (weights.form === 'rotated8') return addRotated(graph, x, weights, options)
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

/** The middle of uint8: activations are symmetric, so one zero point is right for all rows. */
const ZERO_POINT = 128

/**
 * A product of integers, `(x · R) · (W · R)ᵀ = x · Wᵀ`: each token of the rotated x in int8 with a scale of
 * its own. The sums are exact, so no batch can change them.
 */
function addRotated(
  graph: OnnxGraph,
  x: string,
  { quants, scales }: LinearWeights & { form: 'rotated8' },
  { name, inputSize }: LinearOptions,
): string {
  const size = rotationSize(inputSize)
  const blocks = graph.node('Reshape', [x, graph.ints([-1, size])])
  const mixed = graph.node('MatMul', [blocks, addRotation(graph, size)])
  const rotated = graph.node('Reshape', [mixed, graph.ints([-1, inputSize])])
  const sizes = graph.node('Abs', [rotated])
  const peaks = graph.node('ReduceMax', [sizes], { axes: [-1], keepdims: 1 }) // [T, 1]
  const zero = graph.byte(ZERO_POINT)
  // A token of zeros is 0 / 0 here: whatever integers come of it are multiplied by its peak of 0.
  const parts = graph.node('Div', [rotated, peaks])
  const integers = graph.node('QuantizeLinear', [parts, graph.float(1 / 127), zero])
  const y = graph.microsoftNode('MatMulIntegerToFloat', [
    integers,
    graph.initializer(`${name}.quants`, transpose(quants, inputSize), [inputSize, scales.length]),
    graph.float(1 / 127),
    graph.initializer(`${name}.scales`, scales, [scales.length]),
    zero,
  ])
  return graph.node('Mul', [y, peaks])
}

/** [size, size]. */
export function addRotation(graph: OnnxGraph, size: number): string {
  return graph.matrix(`rotation_${size}`, () => rotationMatrix(size), [size, size])
}

/** [in, out] of [out, in]; by tiles, so that both are read and written in whole cache lines. */
function transpose(rows: Int8Array, inputSize: number): Int8Array {
  const outputSize = rows.length / inputSize
  const columns = new Int8Array(rows.length)
  const TILE = 64
  for (let top = 0; top < outputSize; top += TILE) {
    const bottom = Math.min(top + TILE, outputSize)
    for (let input = 0; input < inputSize; input++) {
      for (let output = top; output < bottom; output++) {
        columns[input * outputSize + output] = rows[output * inputSize + input] ?? 0
      }
    }
  }
  return columns
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
  for (const form of ['q8', 'rotated8'] as const) {
    if (!areAll(parts, form)) continue
    return {
      form,
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
