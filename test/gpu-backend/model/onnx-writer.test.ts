import { expect, test } from 'vitest'
import { createSession } from '../../../gpu-backend/compute/session.ts'
import { OnnxGraph } from '../../../gpu-backend/model/onnx-writer.ts'

const CPU = { executionProvider: 'cpu', threadCount: 1 } as const

test('writes the bytes that onnx.proto3 prescribes', () => {
  const graph = new OnnxGraph()
  graph.input('x', 'float32', ['T', 2])
  graph.node('Softmax', ['x'], { axis: -1 }, 'y')
  graph.output('y', 'float32')
  const text = (value: string) => [...Buffer.from(value)]
  const valueInfo = (name: string, type: number[]) => [0x0a, 1, ...text(name), 0x12, ...type]
  expect([...graph.encode()]).toEqual([
    ...[0x0a, 53], // field 1: node
    ...[0x0a, 1, ...text('x')], // input
    ...[0x12, 1, ...text('y')], // output
    ...[0x1a, 14, ...text('node_Softmax_1')], // name
    ...[0x22, 7, ...text('Softmax')], // op_type
    ...[0x2a, 20, 0x0a, 4, ...text('axis')], // attribute: name,
    ...[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], // i = −1 in two's complement,
    ...[0xa0, 0x01, 2], // type = INT
    ...[0x12, 5, ...text('graph')], // name
    ...[0x5a, 20], // field 11: input, shape [T, 2]
    ...valueInfo('x', [
      15,
      0x0a,
      13,
      0x08,
      1,
      0x12,
      9,
      0x0a,
      3,
      0x12,
      1,
      ...text('T'),
      0x0a,
      2,
      0x08,
      2,
    ]),
    ...[0x62, 9], // field 12: output, shape left out
    ...valueInfo('y', [4, 0x0a, 2, 0x08, 1]),
  ])
})

test('ONNX Runtime reads inline and external initializers of every type', async () => {
  const graph = new OnnxGraph()
  const x = graph.input('x', 'float32', ['T', 32])
  const weights = Float32Array.from({ length: 32 * 16 }, (_, i) => i % 7)
  const w = graph.initializer('w', weights, [32, 16])
  const product = graph.node('MatMul', [x, w])
  const [left, right] = graph.split(product, graph.ints([4, 12]), { axis: 1, count: 2 })
  const sum = graph.node('ReduceSum', [right, graph.ints([1])], { keepdims: 1 })
  graph.node('Add', [graph.node('Mul', [left, sum]), graph.float(0.5)], {}, 'y')
  graph.output('y', 'float32', ['T', 4])
  const model = graph.toModel()
  expect(model.weights.map(({ path, data }) => [path, data.length])).toEqual([['w', 2048]])

  const session = await createSession(model, CPU)
  const input = Float32Array.from({ length: 32 }, (_, i) => i / 8)
  const { y } = await session.run({ x: { data: input, dims: [1, 32] } }, ['y'])
  const column = (n: number) => input.reduce((dot, v, k) => dot + v * weights[k * 16 + n]!, 0)
  const rest = Array.from({ length: 12 }, (_, n) => column(4 + n)).reduce((a, b) => a + b)
  expect([...y]).toEqual([0, 1, 2, 3].map((n) => Math.fround(column(n) * rest + 0.5)))
  await session.close()
})

test('runs the branch that is taken, which sees the values around it', async () => {
  const graph = new OnnxGraph()
  const x = graph.input('x', 'float32', ['T'])
  const condition = graph.input('condition', 'bool', [])
  const doubled = graph.node('Add', [x, x])
  const either = graph.either(
    condition,
    (branch) => branch.node('Mul', [doubled, branch.float(10)]),
    (branch) => branch.node('Identity', [doubled]),
  )
  graph.node('Identity', [either], {}, 'y')
  graph.output('y', 'float32')
  const session = await createSession(graph.toModel(), CPU)
  const run = async (isTaken: boolean) => {
    const feeds = {
      x: { data: Float32Array.of(1, 2), dims: [2] },
      condition: { data: Uint8Array.of(isTaken ? 1 : 0), dims: [] },
    }
    return [...(await session.run(feeds, ['y'])).y]
  }
  expect(await run(true)).toEqual([20, 40])
  expect(await run(false)).toEqual([2, 4])
})
