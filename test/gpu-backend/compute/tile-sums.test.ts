import { expect, test } from 'vitest'
import { ones } from '../../../gpu-backend/compute/feeds.ts'
import { createSession } from '../../../gpu-backend/compute/session.ts'
import { padTiles } from '../../../gpu-backend/model/graph-inputs.ts'
import { OnnxGraph } from '../../../gpu-backend/model/onnx-writer.ts'
import {
  createSequence,
  cutInto,
  play,
  runStep,
  startRunner,
} from '../../support/play-sequences.ts'
import { createRandom, gaussians } from '../../support/random.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { createRandomModel } from '../../support/random-model.ts'

test.each([1, 2])('zeros at the end change no sum of tiles (%i threads)', async (threadCount) => {
  const graph = new OnnxGraph()
  graph.input('x', 'float32', ['W', 'N'])
  graph.input('ones', 'float32', [1, 'W'])
  graph.node('Identity', [graph.sumOuter('x', 'ones')], {}, 'y')
  graph.output('y', 'float32', [1, 'N'])
  const session = await createSession(graph.toModel(), { executionProvider: 'cpu', threadCount })
  const size = 579
  const sum = async (x: Float32Array, tileCount: number) => {
    const padded = new Float32Array(tileCount * size)
    padded.set(x)
    const data = { x: { data: padded, dims: [tileCount, size] }, ones: ones(tileCount) }
    return (await session.run(data, ['y'])).y
  }
  for (let tileCount = 1; tileCount <= 17; tileCount++) {
    const x = gaussians(createRandom(tileCount), tileCount * size)
    const own = await sum(x, padTiles(tileCount))
    for (let more = tileCount; more <= 24; more++) {
      expect(await sum(x, padTiles(more))).toEqual(own)
    }
  }
  await session.close()
})

test('rows of seven tiles, of ranks and of pages, are as alone beside rows of eight', async () => {
  const source = createRandomModel({ seed: 1, form: 'f32' })
  const runner = await startRunner(source, { executionProvider: 'cpu' })
  const adapters = [112, 128].map((rank, seed) =>
    createRandomAdapter({ seed, config: source.config, rank }),
  )
  for (const adapter of adapters) runner.loadAdapter(adapter)
  const create = (pageCount: number) =>
    adapters.map((adapter, seed) =>
      createSequence(source, { seed, tokenCount: 64 * (pageCount + seed) + 12, adapter }),
    )
  const run = async (sequences: ReturnType<typeof create>) => {
    for (const sequence of sequences) {
      await play(runner, [sequence], cutInto(sequence.tokens.length - 12, 64))
    }
    for (const cut of [1, 1, 10])
      await runStep(
        runner,
        sequences.map((sequence) => ({ sequence, cut })),
      )
  }
  const [together, alone] = [create(6), create(6)]
  await run(together)
  for (const sequence of alone) await run([sequence])
  expect(alone.map(({ logits }) => logits)).toEqual(together.map(({ logits }) => logits))
  await runner.close()
})
