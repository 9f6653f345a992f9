import { expect, test } from 'vitest'
import { createSession } from '../../../gpu-backend/compute/session.ts'
import { addLinear } from '../../../gpu-backend/model/linear-graph.ts'
import { OnnxGraph } from '../../../gpu-backend/model/onnx-writer.ts'
import {
  quantiseRotated,
  type RotatedWeights,
  relativeError,
} from '../../../gpu-backend/model/quantise.ts'
import { rotate, rotationMatrix, rotationSize } from '../../../gpu-backend/model/rotation.ts'
import { createRandom, gaussians } from '../../support/random.ts'

test.each([
  [576, 64],
  [1536, 64],
  [96, 32],
  [36, 4],
  [7, 1],
])('%i inputs are rotated by %i', (inputSize, size) => {
  expect(rotationSize(inputSize)).toBe(size)
})

test('the matrix is orthogonal and symmetric, and `rotate` multiplies by it', () => {
  const size = 16
  const matrix = rotationMatrix(size)
  const values = gaussians(createRandom(1), 3 * size)
  const product = (rows: Float32Array) =>
    rows.map((_, at) => {
      const [start, column] = [at - (at % size), at % size]
      let sum = 0
      for (let i = 0; i < size; i++) sum += rows[start + i]! * matrix[i * size + column]!
      return sum
    })
  const rotated = values.slice()
  rotate(rotated, size)
  expect(distance(rotated, product(values))).toBeLessThan(1e-6)
  expect(distance(product(rotated), values)).toBeLessThan(1e-6)
  expect(matrix.every((value) => Math.abs(value) === 1 / 4)).toBe(true)
})

test('rows with a few large weights lose less than without the rotation', () => {
  const rows = gaussians(createRandom(2), 64 * 192).map((value, i) =>
    i % 97 === 0 ? 20 * value : value,
  )
  const plain = rows.map((_, at) => {
    const start = at - (at % 192)
    const row = rows.subarray(start, start + 192)
    const scale = Math.max(...row.map(Math.abs)) / 127
    return Math.round(rows[at]! / scale) * scale
  })
  const lost = relativeError(rows, quantiseRotated(rows.slice(), 192))
  expect(lost).toBeLessThan(0.7 * relativeError(rows, { form: 'f32', values: plain }))
})

/** Written out as the definition has it: scales and rounding in float32, the product in integers. */
function expected(x: Float32Array, weights: RotatedWeights, inputs: number) {
  const rotated = x.slice()
  rotate(rotated, rotationSize(inputs))
  const y: number[] = []
  for (let start = 0; start < x.length; start += inputs) {
    const token = rotated.subarray(start, start + inputs)
    const peak = Math.max(...token.map(Math.abs))
    const integers = token.map((value) => Math.round(127 * (value / (peak || 1))))
    for (const [row, scale] of weights.scales.entries()) {
      let sum = 0
      integers.forEach((integer, i) => {
        sum += integer * (weights.quants[row * inputs + i] ?? 0)
      })
      y.push((sum * scale * peak) / 127)
    }
  }
  return Float32Array.from(y)
}

test('the graph multiplies rotated rows by tokens with a scale each, zeros and large ones too', async () => {
  const [inputs, outputs] = [192, 48]
  const random = createRandom(3)
  const weights = quantiseRotated(gaussians(random, inputs * outputs), inputs)
  const x = gaussians(random, 4 * inputs).map((value, i) => {
    if (i < inputs) return 0
    return i % 50 === 0 ? 300 * value : value
  })
  const half = outputs / 2
  const parts = [0, half].map((start) => ({
    form: weights.form,
    quants: weights.quants.slice(start * inputs, (start + half) * inputs),
    scales: weights.scales.slice(start, start + half),
  }))
  const y = await multiply(x, parts, inputs)
  const right = expected(x, weights, inputs)
  expect(y.subarray(0, outputs).every((value) => value === 0)).toBe(true)
  expect(distance(y, right)).toBeLessThan(1e-5 * norm(right))
})

test.each([1, 8])(
  'the largest products that there are do not overflow, %i rows',
  async (rowCount) => {
    const inputs = 64
    const weights = {
      form: 'rotated8' as const,
      quants: new Int8Array(inputs * 16).fill(127),
      scales: new Float32Array(16).fill(1),
    }
    const x = new Float32Array(rowCount * inputs).fill(1)
    rotate(x, inputs) // which makes ones of it again, in the graph
    const y = await multiply(x, [weights], inputs)
    const right = expected(x, weights, inputs)
    expect(distance(y, right)).toBeLessThan(1e-5 * norm(right))
  },
)

async function multiply(
  x: Float32Array,
  parts: readonly RotatedWeights[],
  inputs: number,
): Promise<Float32Array> {
  const graph = new OnnxGraph()
  graph.input('x', 'float32', ['T', inputs])
  const options = { name: 'w', inputSize: inputs, accuracyLevel: 4 } as const
  graph.node('Identity', [addLinear(graph, 'x', parts, options)], {}, 'y')
  graph.output('y', 'float32', ['T', 'N'])
  const session = await createSession(graph.toModel(), { executionProvider: 'cpu', threadCount: 1 })
  const { y } = await session.run({ x: { data: x, dims: [x.length / inputs, inputs] } }, ['y'])
  await session.close()
  return y
}

function norm(values: Float32Array): number {
  return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
}

function distance(left: Float32Array, right: Float32Array): number {
  return norm(left.map((value, i) => value - (right[i] ?? 0)))
}
