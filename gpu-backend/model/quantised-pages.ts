import { PRESENT_INTEGERS, PRESENT_PEAKS } from './graph-inputs.ts'
import type { OnnxGraph } from './onnx-writer.ts'

/** A page's keys or values, and what 127 stands for in each head of a token: see `KvForm`. */
export interface IntegerPages {
  /** [P, KV, 1, 64, D] int8; of keys [P, KV, 1, D, 64]. */
  readonly integers: string
  /** [P, KV, 1, 1, 64]. */
  readonly peaks: string
}

const LARGEST = 127
const LARGEST_WEIGHT = 255
/** The middle of uint8, which queries are rounded to. */
const ZERO_POINT = 128

/** Products of queries [B, KV, 1, R, D], each rounded by itself, with the keys of its row's pages: [P, KV, 1, R, 64]. */
export function scoreIntegers(
  graph: OnnxGraph,
  q: string,
  pageRows: string,
  { integers, peaks }: IntegerPages,
): string {
  const zero = graph.byte(ZERO_POINT)
  const { parts, peaks: queryPeaks } = divideByPeaks(graph, q)
  const rounded = graph.node('QuantizeLinear', [parts, graph.float(1 / LARGEST), zero])
  const pick = (value: string) => graph.node('Gather', [value, pageRows], { axis: 0 })
  const unit = graph.float(1 / (LARGEST * LARGEST))
  const products = integerProduct(graph, [pick(rounded), integers, unit, peaks, zero])
  return graph.node('Mul', [products, pick(queryPeaks)])
}

/**
 * Sums of values by weights [P, KV, 1, R, 64]: [P, KV, 1, R, D]. A position's weight takes up what 127 stands
 * for in its value, and is rounded to 255 parts of the largest one of its row.
 */
export function weighIntegers(
  graph: OnnxGraph,
  weights: string,
  { integers, peaks }: IntegerPages,
): string {
  const zero = graph.byte(0)
  const { parts, peaks: rowPeaks } = divideByPeaks(graph, graph.node('Mul', [weights, peaks]), {
    areNegative: false,
  })
  const rounded = graph.node('QuantizeLinear', [parts, graph.float(1 / LARGEST_WEIGHT), zero])
  const [unit, valueUnit] = [graph.float(1 / LARGEST_WEIGHT), graph.float(1 / LARGEST)]
  const products = integerProduct(graph, [rounded, integers, unit, valueUnit, zero])
  return graph.node('Mul', [products, rowPeaks])
}

/** Makes `heads` [2L · T, KV, 1, 1, D] the outputs {@link PRESENT_INTEGERS} and {@link PRESENT_PEAKS}. */
export function addIntegerHeads(
  graph: OnnxGraph,
  heads: string,
  dims: readonly (number | string)[],
): void {
  const { parts } = divideByPeaks(graph, heads, { peaksName: PRESENT_PEAKS })
  const zero = graph.initializer('present.zero', Int8Array.of(0), [])
  graph.node('QuantizeLinear', [parts, graph.float(1 / LARGEST), zero], {}, PRESENT_INTEGERS)
  graph.output(PRESENT_INTEGERS, 'int8', dims)
  graph.output(PRESENT_PEAKS, 'float32', [...dims.slice(0, -1), 1])
}

/** The sums are exact, so no batch can change them. */
function integerProduct(graph: OnnxGraph, inputs: readonly string[]): string {
  return graph.microsoftNode('MatMulIntegerToFloat', inputs)
}

/**
 * Rows by the size of their largest value. Rows of zeros are 0 / 0 here: whatever integers come of them are
 * multiplied by their peak of 0.
 */
function divideByPeaks(
  graph: OnnxGraph,
  rows: string,
  { areNegative = true, peaksName }: { areNegative?: boolean; peaksName?: string } = {},
) {
  const sizes = areNegative ? graph.node('Abs', [rows]) : rows
  const peaks = graph.node('ReduceMax', [sizes], { axes: [-1], keepdims: 1 }, peaksName)
  return { parts: graph.node('Div', [rows, peaks]), peaks }
}
