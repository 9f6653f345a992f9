import { describe, expect, test } from 'vitest'
import type { LoraWeights } from '../../../gpu-backend/adapters/lora-weights.ts'
import type { KvRow } from '../../../gpu-backend/engine/model-runner.ts'
import type { ModelSource } from '../../../gpu-backend/model/model-source.ts'
import {
  closeKvRow,
  createSequence,
  cutInto,
  isDone,
  openKvRow,
  play,
  playRandomly,
  runStep,
  type Sequence,
  startRunner,
  worstError,
} from '../../support/play-sequences.ts'
import { createRandom } from '../../support/random.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { createRandomModel } from '../../support/random-model.ts'
import { referenceLogits } from '../../support/reference-llama.ts'

/** What float32 may lose against the float64 referee, on logits of about ±8. */
const FLOAT32_TOLERANCE = 1e-4

describe('agrees with the reference in float32', () => {
  const source = createRandomModel({ seed: 1, form: 'f32' })

  test('for the base model, token by token and across pages', async () => {
    const runner = await startRunner(source)
    const sequence = createSequence(source, { seed: 1, tokenCount: 140 })
    await play(runner, [sequence], cutInto(140, 1))
    expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
  })

  test.each([7, 64, 65, 200])('for a prompt in chunks of %i', async (chunkLength) => {
    const runner = await startRunner(source)
    const sequence = createSequence(source, { seed: 2, tokenCount: 200 })
    await play(runner, [sequence], cutInto(200, chunkLength))
    expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
  })

  test('for adapters of ranks 1 to 256 on any layers, beside base rows, chunks and decode mixed', async () => {
    const runner = await startRunner(source)
    const adapters = [
      createRandomAdapter({ seed: 1, config: source.config, rank: 1, linears: ['q', 'v'] }),
      createRandomAdapter({ seed: 2, config: source.config, rank: 4 }),
      createRandomAdapter({ seed: 3, config: source.config, rank: 8, linears: ['k', 'up'] }),
      createRandomAdapter({ seed: 4, config: source.config, rank: 16, linears: ['o', 'down'] }),
      createRandomAdapter({ seed: 5, config: source.config, rank: 64, linears: ['gate', 'q'] }),
      createRandomAdapter({ seed: 6, config: source.config, rank: 256 }),
    ]
    for (const adapter of adapters) runner.loadAdapter(adapter)
    const sequences = [null, ...adapters, null, ...adapters].map((adapter, i) =>
      createSequence(source, { seed: 10 + i, tokenCount: 70, adapter }),
    )
    await playRandomly(runner, sequences, 'mixed')
    for (const sequence of sequences) {
      expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
    }
  })

  test('bit for bit as alone where LoRA takes so much that a step is several runs', async () => {
    const runner = await startRunner(source, { executionProvider: 'cpu' })
    const adapters = Array.from({ length: 6 }, (_, seed) =>
      createRandomAdapter({ seed, config: source.config, rank: seed === 0 ? 16 : 256 }),
    )
    for (const adapter of adapters) runner.loadAdapter(adapter)
    const create = () =>
      [...adapters, adapters[1]].map((adapter, seed) =>
        createSequence(source, { seed, tokenCount: seed < 3 ? 2 : 300, adapter: adapter ?? null }),
      )
    const [together, alone] = [create(), create()]
    await play(runner, together.slice(0, 3), [1])
    await play(runner, together.toReversed(), [300])
    for (const [i, sequence] of alone.entries()) {
      await play(runner, [sequence], i < 3 ? [1, 1] : [300])
      expect(sequence.logits).toEqual(together[i]?.logits)
    }
  })

  test('bit for bit as alone where the tiles of an adapter are copied for its chunk', async () => {
    const runner = await startRunner(source, { executionProvider: 'cpu' })
    const ranks = [8, 40, ...Array.from({ length: 12 }, () => 16)]
    const adapters = ranks.map((rank, seed) =>
      createRandomAdapter({ seed, config: source.config, rank }),
    )
    for (const adapter of adapters) runner.loadAdapter(adapter)
    const create = () =>
      adapters.map((adapter, seed) =>
        createSequence(source, { seed, tokenCount: seed < 2 ? 9 : 1, adapter }),
      )
    const [together, alone] = [create(), create()]
    await play(runner, together, [9])
    for (const [i, sequence] of alone.entries()) {
      await play(runner, [sequence], [9])
      expect(sequence.logits).toEqual(together[i]?.logits)
    }
  })

  test('bit for bit as alone in a step of more tokens than the context', async () => {
    const { contextLength } = source.config
    const tokenCount = contextLength - 28
    const [alone, ...together] = Array.from({ length: 4 }, () =>
      createSequence(source, { seed: 3, tokenCount }),
    )
    const runner = await startRunner(source)
    await play(runner, [alone!], cutInto(tokenCount, tokenCount))
    await runStep(
      runner,
      together.map((sequence) => ({ sequence, cut: tokenCount })),
    )
    for (const { logits } of together) expect(logits).toEqual(alone!.logits)
  })

  test('while rows come and go and adapters are exchanged', async () => {
    const runner = await startRunner(source, { kvBudgetTokens: 64 * 12 })
    const random = createRandom(7)
    const finished: Sequence[] = []
    const running: Sequence[] = []
    for (let round = 0; round < 8; round++) {
      const rank = [2, 8, 32][round % 3] ?? 1
      const adapter = createRandomAdapter({ seed: round, config: source.config, rank })
      runner.loadAdapter(adapter)
      const tokenCount = 100 + Math.floor(random() * 80)
      running.push(createSequence(source, { seed: round, tokenCount, adapter }))
      if (running.length === 3) {
        const [leaving] = running.splice(Math.floor(random() * 3), 1)
        if (leaving) finished.push(leaving)
        await playRandomly(
          runner,
          leaving ? [leaving, ...running] : running,
          `round ${round}`,
          () => isDone(leaving),
        )
        if (leaving?.kv) closeKvRow(runner, leaving.kv)
        if (leaving?.adapter) runner.unloadAdapter(leaving.adapter.digest)
      }
    }
    await playRandomly(runner, running, 'rest')
    for (const sequence of [...finished, ...running]) {
      expect(isDone(sequence)).toBe(true)
      expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
    }
  })

  test('with as many key heads as query heads, and with one', async () => {
    for (const kvHeadCount of [4, 1]) {
      const shaped = createRandomModel({ seed: 3, form: 'f32', config: { kvHeadCount } })
      const runner = await startRunner(shaped)
      const adapter = createRandomAdapter({ seed: 1, config: shaped.config, rank: 8 })
      runner.loadAdapter(adapter)
      const sequences = [null, adapter].map((own, i) =>
        createSequence(shaped, { seed: i, tokenCount: 80, adapter: own }),
      )
      await playRandomly(runner, sequences, 'heads')
      for (const sequence of sequences) {
        expect(worstError(shaped, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
      }
    }
  })
})

describe('agrees with the reference on quantised weights', () => {
  test.each(['q4', 'q8'] as const)('%s with float32 activations', async (form) => {
    const source = createRandomModel({ seed: 4, form })
    const runner = await startRunner(source, { accuracyLevel: 0 })
    const adapter = createRandomAdapter({ seed: 1, config: source.config, rank: 8 })
    runner.loadAdapter(adapter)
    const sequences = [null, adapter].map((own, i) =>
      createSequence(source, { seed: i, tokenCount: 100, adapter: own }),
    )
    await playRandomly(runner, sequences, form)
    for (const sequence of sequences) {
      expect(worstError(source, sequence)).toBeLessThan(1e-3)
    }
  })

  test('a layer whose parts differ in form', async () => {
    const quantised = createRandomModel({ seed: 5, form: 'q4' })
    const floats = createRandomModel({ seed: 5, form: 'f32' })
    const source: ModelSource = {
      ...quantised,
      linear: (layer, name) => (name === 'v' ? floats : quantised).linear(layer, name),
    }
    const runner = await startRunner(source, { accuracyLevel: 0 })
    const sequence = createSequence(source, { seed: 1, tokenCount: 20 })
    await play(runner, [sequence], cutInto(20, 20))
    expect(worstError(source, sequence)).toBeLessThan(1e-3)
  })

  test.each(['q4', 'rotated8'] as const)(
    '%s with int8 activations mostly picks the same token',
    async (form) => {
      const source = createRandomModel({ seed: 6, form })
      const runner = await startRunner(source, { accuracyLevel: 4 })
      const sequence = createSequence(source, { seed: 1, tokenCount: 200 })
      await play(runner, [sequence], cutInto(200, 1))
      const expected = referenceLogits(source, sequence.tokens)
      const agreed = [...sequence.logits].filter(
        ([end, logits]) => argmax(logits) === argmax(expected[end - 1] ?? []),
      )
      process.stdout.write(
        `${form}, int8 activations: top-1 agrees on ${agreed.length} of 200 tokens\n`,
      )
      expect(agreed.length).toBeGreaterThan(180)
    },
  )
})

describe('a row is the same to the last bit alone and in any batch', () => {
  test.each([
    { form: 'f32', accuracyLevel: 0 },
    { form: 'q4', accuracyLevel: 4 },
    { form: 'rotated8', accuracyLevel: 4 },
  ] as const)('$form, activations at level $accuracyLevel', async ({ form, accuracyLevel }) => {
    // Wide enough for ONNX Runtime to cut the products into blocks and share them among threads.
    const config = { hiddenSize: 288, headSize: 48, headCount: 6, kvHeadCount: 2, ffnSize: 640 }
    const source = createRandomModel({ seed: 7, form, config })
    const adapters = [1, 8, 24, 64, 256].map((rank, seed) =>
      createRandomAdapter({ seed, config: source.config, rank }),
    )
    const runner = await startRunner(source, {
      ...{ executionProvider: 'cpu', threadCount: 2 },
      accuracyLevel,
    })
    for (const adapter of adapters) runner.loadAdapter(adapter)
    const create = () =>
      [null, ...adapters, null].map((adapter, i) =>
        createSequence(source, { seed: i, tokenCount: 150 + i, adapter }),
      )
    const together = create()
    await playRandomly(runner, together, 'together')
    for (const [i, sequence] of create().entries()) {
      const mate = together[i]
      if (!mate) continue
      await play(runner, [sequence], mate.cuts)
      expect(sequence.logits.size).toBe(mate.logits.size)
      for (const [end, logits] of sequence.logits) {
        expect(logits, `row ${i} after ${end} tokens`).toEqual(mate.logits.get(end))
      }
    }
  })
})

describe('a wrong graph would be noticed', () => {
  const source = createRandomModel({ seed: 1, form: 'f32' })
  const mutations: Record<string, (source: ModelSource) => ModelSource> = {
    'a wrong score scale': (right) => ({
      ...right,
      linear: (layer, name) =>
        mapValues(right, layer, name, (value) => (name === 'q' ? value * 1.001 : value)),
    }),
    'two rows of the keys exchanged': (right) => ({
      ...right,
      linear: (layer, name) => {
        const weights = right.linear(layer, name)
        if (name !== 'k' || layer !== 1 || weights.form !== 'f32') return weights
        const values = weights.values.slice()
        values.copyWithin(0, 64, 128)
        values.set(weights.values.subarray(0, 64), 64)
        return { form: 'f32', values }
      },
    }),
    'another rotary base': (right) => ({ ...right, config: { ...right.config, ropeTheta: 9_990 } }),
    'another epsilon': (right) => ({ ...right, config: { ...right.config, normEpsilon: 1e-3 } }),
  }

  test.each(Object.keys(mutations))('%s', async (name) => {
    const wrong = mutations[name]?.(source) ?? source
    const runner = await startRunner(wrong)
    const sequence = createSequence(wrong, { seed: 1, tokenCount: 40 })
    await play(runner, [sequence], cutInto(40, 20))
    expect(worstError(source, sequence)).toBeGreaterThan(10 * FLOAT32_TOLERANCE)
  })

  test('a wrong adapter scale', async () => {
    const runner = await startRunner(source)
    const right = createRandomAdapter({ seed: 1, config: source.config, rank: 8, linears: ['v'] })
    const modules = new Map(
      [...right.modules].map(([key, module]) => [key, { ...module, scale: module.scale * 1.01 }]),
    )
    runner.loadAdapter({ ...right, modules })
    const sequence = createSequence(source, { seed: 1, tokenCount: 40, adapter: right })
    await play(runner, [sequence], cutInto(40, 20))
    expect(worstError(source, sequence)).toBeGreaterThan(10 * FLOAT32_TOLERANCE)
  })
})

describe('admits, and refuses what it cannot run', () => {
  const source = createRandomModel({ seed: 1, form: 'f32', config: { contextLength: 128 } })
  const step = (kv: KvRow, tokens: readonly number[], adapter: string | null = null) => [
    { kv, tokens: Int32Array.from(tokens), adapter, wantLogits: true },
  ]

  test('a row that begins with the pages of another goes on from there, adopted or copied', async () => {
    const runner = await startRunner(source, { kvBudgetTokens: 64 * 4 })
    expect(runner.kvPageCount).toBe(4)
    const first = createSequence(source, { seed: 1, tokenCount: 80 })
    first.kv = runner.createKvRow()
    for (const page of [0, 1]) runner.addKvPage(first.kv, page, 'empty')
    await play(runner, [first], cutInto(80, 64))
    const second = { ...first, logits: new Map<number, Float32Array>(), kv: runner.createKvRow() }
    runner.copyKvPage(0, 2)
    runner.addKvPage(second.kv, 2, 'filled')
    runner.addKvPage(second.kv, 3, 'empty')
    expect(second.kv).toMatchObject({ length: 64, capacity: 128 })
    await play(runner, [second], [16])
    expect(second.logits.get(80)).toEqual(first.logits.get(80))
    runner.freeKvRow(first.kv)
    runner.freeKvRow(second.kv)
    const third = { ...second, logits: new Map<number, Float32Array>(), kv: runner.createKvRow() }
    runner.addKvPage(third.kv, 2, 'filled')
    runner.addKvPage(third.kv, 0, 'empty')
    await play(runner, [third], [16])
    expect(third.logits.get(80)).toEqual(first.logits.get(80))
  })

  test('a page belongs to one row, and a filled one follows full ones', async () => {
    const runner = await startRunner(source, { kvBudgetTokens: 64 * 4 })
    const sequence = createSequence(source, { seed: 1, tokenCount: 10 })
    await play(runner, [sequence], [10])
    const other = runner.createKvRow()
    expect(() => runner.addKvPage(other, 0, 'filled')).toThrow('Page 0 belongs to one row')
    expect(() => runner.addKvPage(sequence.kv!, 1, 'filled')).toThrow('follows full ones')
    expect(() => runner.copyKvPage(1, 0)).toThrow('Page 0 is no row')
    expect(() => runner.copyKvPage(4, 1)).toThrow('Page 4 is one of 4')
  })

  test('a full cache still runs prompts that have no past', async () => {
    const runner = await startRunner(source, { kvBudgetTokens: 128 })
    const first = createSequence(source, { seed: 1, tokenCount: 64 })
    await play(runner, [first], cutInto(64, 64))
    const second = createSequence(source, { seed: 2, tokenCount: 64 })
    await play(runner, [second], cutInto(64, 64))
    expect(worstError(source, second)).toBeLessThan(FLOAT32_TOLERANCE)
  })

  test('tokens past the capacity or the context, unknown tokens, rows and adapters', async () => {
    const runner = await startRunner(source)
    const small = openKvRow(runner, 2)
    const large = openKvRow(runner, 400)
    await expect(runner.run([])).rejects.toThrow('A step has rows')
    await expect(runner.run(step(small, new Array(65).fill(1)))).rejects.toThrow('holds 64 tokens')
    await expect(runner.run(step(large, new Array(129).fill(1)))).rejects.toThrow('context')
    await expect(runner.run(step(small, [300]))).rejects.toThrow('vocabulary')
    await expect(runner.run(step(small, []))).rejects.toThrow('has tokens to run')
    await expect(runner.run(step(small, [1], '0xabc'))).rejects.toThrow('Adapter 0xabc is loaded')
    await expect(runner.run([...step(small, [1]), ...step(small, [1])])).rejects.toThrow('once')
    runner.freeKvRow(small)
    await expect(runner.run(step(small, [1]))).rejects.toThrow('is live')
  })

  test('overflow stays in its own row', async () => {
    const runner = await startRunner(source)
    const good = createRandomAdapter({ seed: 1, config: source.config, rank: 4 })
    const modules = [...good.modules]
    const withA = (value: number): LoraWeights => ({
      ...good,
      digest: `0x${'9'.repeat(64)}`,
      modules: new Map(
        modules.map(([key, module]) => [key, { ...module, a: module.a.map(() => value) }]),
      ),
    })
    runner.loadAdapter(good)
    runner.loadAdapter(withA(3e38))
    const wild = createSequence(source, { seed: 1, tokenCount: 100, adapter: withA(3e38) })
    const calm = createSequence(source, { seed: 2, tokenCount: 100, adapter: good })
    await playRandomly(runner, [wild, calm], 'overflow')
    expect([...wild.logits.values()].some((logits) => logits.some(Number.isNaN))).toBe(true)
    expect(worstError(source, calm)).toBeLessThan(FLOAT32_TOLERANCE)
    if (wild.kv) closeKvRow(runner, wild.kv)
    const after = createSequence(source, { seed: 3, tokenCount: 100 })
    await playRandomly(runner, [after, calm], 'after overflow')
    expect(worstError(source, after)).toBeLessThan(FLOAT32_TOLERANCE)
  })
})

function mapValues(
  source: ModelSource,
  layer: number,
  name: Parameters<ModelSource['linear']>[1],
  map: (value: number) => number,
): ReturnType<ModelSource['linear']> {
  const weights = source.linear(layer, name)
  return weights.form === 'f32' ? { form: 'f32', values: weights.values.map(map) } : weights
}

function argmax(values: ArrayLike<number>): number {
  let best = 0
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i
  return best
}
