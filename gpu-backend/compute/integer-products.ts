import { OnnxGraph, type OnnxModel } from '../model/onnx-writer.ts'

const INPUT_SIZE = 64
const OUTPUT_SIZE = 16
const LARGEST = { activation: 255, weight: 127 } as const

/** What every value of {@link buildOverflowProbe}'s output is, unless products overflow. */
export const EXACT_PRODUCT = INPUT_SIZE * LARGEST.activation * LARGEST.weight

/** [T, 64] all ones of input `x` → `y` [T, 16]: the largest product of uint8 and int8 that there is. */
export function buildOverflowProbe(): OnnxModel {
  const graph = new OnnxGraph()
  graph.input('x', 'float32', ['T', INPUT_SIZE])
  const zero = graph.byte(0)
  const integers = graph.node('QuantizeLinear', ['x', graph.float(1 / LARGEST.activation), zero])
  const weights = new Int8Array(INPUT_SIZE * OUTPUT_SIZE).fill(LARGEST.weight)
  const w = graph.initializer('w', weights, [INPUT_SIZE, OUTPUT_SIZE])
  const one = graph.float(1)
  graph.microsoftNode('MatMulIntegerToFloat', [integers, w, one, one, zero], {}, 'y')
  graph.output('y', 'float32', ['T', OUTPUT_SIZE])
  return graph.toModel()
}

/** One row and several: ONNX Runtime has a kernel for each. */
export const PROBE_INPUTS = [1, 8].map((rowCount) => ({
  data: new Float32Array(rowCount * INPUT_SIZE).fill(1),
  dims: [rowCount, INPUT_SIZE],
}))
