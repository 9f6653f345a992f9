import { expect, test } from 'vitest'
import { createSession } from '../../../gpu-backend/compute/session.ts'
import { OnnxGraph } from '../../../gpu-backend/model/onnx-writer.ts'
import { scoreIntegers, weighIntegers } from '../../../gpu-backend/model/quantised-pages.ts'
import { createRandom } from '../../support/random.ts'

const PAGES = 3
const HEADS = 2
const ROWS = 3
const SIZE = 64

/** Two rows of queries over three pages, the last of which is all zeros. */
function createInputs() {
  const random = createRandom(7)
  const draw = (length: number) => Float32Array.from({ length }, () => 2 * random() - 1)
  const integers = () =>
    Int8Array.from({ length: PAGES * HEADS * SIZE * SIZE }, () => Math.floor(255 * random()) - 127)
  const peaks = () =>
    draw(PAGES * HEADS * SIZE)
      .map(Math.abs)
      .fill(0, 2 * HEADS * SIZE)
  return {
    q: { data: draw(2 * HEADS * ROWS * SIZE), dims: [2, HEADS, 1, ROWS, SIZE] },
    pageRows: { data: BigInt64Array.of(1n, 0n, 1n), dims: [PAGES] },
    keys: { data: integers(), dims: [PAGES, HEADS, 1, SIZE, SIZE] },
    keyPeaks: { data: peaks(), dims: [PAGES, HEADS, 1, 1, SIZE] },
    weights: {
      data: draw(PAGES * HEADS * ROWS * SIZE).map(Math.abs),
      dims: [PAGES, HEADS, 1, ROWS, SIZE],
    },
    values: { data: integers(), dims: [PAGES, HEADS, 1, SIZE, SIZE] },
    valuePeaks: { data: peaks(), dims: [PAGES, HEADS, 1, 1, SIZE] },
  }
}

async function attend(inputs: ReturnType<typeof createInputs>) {
  const graph = new OnnxGraph()
  const types = { pageRows: 'int64', keys: 'int8', values: 'int8' } as const
  for (const [name, { dims }] of Object.entries(inputs)) {
    const type = name in types ? types[name as keyof typeof types] : 'float32'
    graph.input(name, type, [`${name}_n`, ...dims.slice(1)])
  }
  const keys = { integers: 'keys', peaks: 'keyPeaks' }
  const values = { integers: 'values', peaks: 'valuePeaks' }
  graph.node('Identity', [scoreIntegers(graph, 'q', 'pageRows', keys)], {}, 'scores')
  graph.node('Identity', [weighIntegers(graph, 'weights', values)], {}, 'sums')
  graph.output('scores', 'float32')
  graph.output('sums', 'float32')
  const session = await createSession(graph.toModel(), { executionProvider: 'cpu', threadCount: 1 })
  const results = await session.run(inputs, ['scores', 'sums'])
  await session.close()
  return results
}

test('scores and sums are those of the numbers that pages stand for, but for the rounding of queries and weights', async () => {
  const inputs = createInputs()
  const { q, keys, keyPeaks, weights, values, valuePeaks } = inputs
  const { scores, sums } = await attend(inputs)
  let [scoreError, sumError] = [0, 0]
  for (let page = 0; page < PAGES; page++) {
    const row = Number(inputs.pageRows.data[page])
    for (let head = 0; head < HEADS; head++) {
      const at = page * HEADS + head
      for (let r = 0; r < ROWS; r++) {
        for (let i = 0; i < SIZE; i++) {
          let [score, sum] = [0, 0]
          for (let j = 0; j < SIZE; j++) {
            const query = q.data[((row * HEADS + head) * ROWS + r) * SIZE + j]!
            const weight = weights.data[(at * ROWS + r) * SIZE + j]!
            score += query * keys.data[(at * SIZE + j) * SIZE + i]!
            sum +=
              weight * values.data[(at * SIZE + j) * SIZE + i]! * valuePeaks.data[at * SIZE + j]!
          }
          score *= keyPeaks.data[at * SIZE + i]!
          const out = (at * ROWS + r) * SIZE + i
          scoreError = Math.max(scoreError, Math.abs(scores[out]! - score / 127))
          sumError = Math.max(sumError, Math.abs(sums[out]! - sum / 127))
          if (page === 2) expect([scores[out]! ** 2, sums[out]! ** 2]).toEqual([0, 0])
        }
      }
    }
  }
  // About seven standard deviations of what 64 roundings add up to; scores and sums themselves are around 1.
  expect(scoreError).toBeLessThan(0.08)
  expect(sumError).toBeLessThan(0.04)
})

test('a page gives the same bits alone and among others', async () => {
  const inputs = createInputs()
  const all = await attend(inputs)
  const alone = await attend({
    ...inputs,
    pageRows: { data: inputs.pageRows.data.slice(0, 1), dims: [1] },
    ...Object.fromEntries(
      (['keys', 'keyPeaks', 'weights', 'values', 'valuePeaks'] as const).map((name) => {
        const { data, dims } = inputs[name]
        return [name, { data: data.slice(0, data.length / PAGES), dims: [1, ...dims.slice(1)] }]
      }),
    ),
  })
  expect(alone.scores).toEqual(all.scores.slice(0, all.scores.length / PAGES))
  expect(alone.sums).toEqual(all.sums.slice(0, all.sums.length / PAGES))
})
