import { afterAll, describe, expect, test } from 'vitest'
import type { ExecutionProvider } from '../../../gpu-backend/compute/session.ts'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../../gpu-backend/engine/scheduler.ts'
import type { ModelSource } from '../../../gpu-backend/model/model-source.ts'
import { engineRequest } from '../../support/engine-request.ts'
import {
  closeKvRow,
  createSequence,
  play,
  runStep,
  startRunner,
  worstError,
} from '../../support/play-sequences.ts'
import { findProviders } from '../../support/providers.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { createRandomModel } from '../../support/random-model.ts'
import { referenceLogits } from '../../support/reference-llama.ts'
import { tapRunner } from '../../support/tap-runner.ts'

/** What float32 may lose against the float64 referee, on logits of about ±8. */
const FLOAT32_TOLERANCE = 1e-4
/** Software Vulkan compiles its kernels first, and takes a second for some steps. */
const TIMEOUT_MS = 300_000

/** Few steps in which all happens that a provider may do wrong: it may be a slow one. */
describe.each(await findProviders())('%s agrees with the reference', (executionProvider) => {
  const source = createRandomModel({ seed: 1, form: 'f32' })
  const adapters = [1, 40].map((rank, seed) =>
    createRandomAdapter({ seed, config: source.config, rank }),
  )
  // One of two keeps the device, and its compiled kernels, from test to test.
  const roomy = startRunner(source, { executionProvider })
  afterAll(async () => (await roomy).close(), TIMEOUT_MS)

  test('base and adapters, chunks beside decode, over pages', { timeout: TIMEOUT_MS }, async () => {
    const runner = await roomy
    for (const adapter of adapters) runner.loadAdapter(adapter)
    const [base, low, high] = [null, adapters[0]!, adapters[1]!].map((adapter, seed) =>
      createSequence(source, { seed, tokenCount: 135, adapter }),
    )
    await play(runner, [base!], [63])
    await play(runner, [base!, low!], [1, 1])
    const cuts = [
      [1, 64, 70],
      [66, 1, 1],
    ] as const
    for (const [first, second, third] of cuts) {
      await runStep(runner, [
        { sequence: base!, cut: first },
        { sequence: low!, cut: second },
        { sequence: high!, cut: third },
      ])
    }
    for (const sequence of [base!, low!, high!]) {
      expect(worstError(source, sequence)).toBeLessThan(FLOAT32_TOLERANCE)
      closeKvRow(runner, sequence.kv!)
    }
  })

  test('in pages that held NaN, and in copied ones', { timeout: TIMEOUT_MS }, async () => {
    const runner = await startRunner(source, { executionProvider, kvBudgetTokens: 64 * 4 })
    const [lowRank] = adapters
    const modules = new Map(
      [...lowRank!.modules].map(([key, module]) => [key, { ...module, scale: Number.NaN }]),
    )
    const adapter = { ...lowRank!, modules }
    runner.loadAdapter(adapter)
    const first = createSequence(source, { seed: 5, tokenCount: 70 })
    const poison = createSequence(source, { seed: 6, tokenCount: 128, adapter })
    await play(runner, [poison], [128])
    closeKvRow(runner, poison.kv!)
    await play(runner, [first], [66, 4])
    expect(worstError(source, first)).toBeLessThan(FLOAT32_TOLERANCE)
    const second = { ...first, logits: new Map<number, Float32Array>(), kv: runner.createKvRow() }
    runner.copyKvPage(0, 2)
    runner.copyKvPage(2, 3)
    runner.addKvPage(second.kv, 3, 'filled')
    runner.freeKvRow(first.kv!)
    runner.addKvPage(second.kv, 1, 'empty')
    await play(runner, [second], [6])
    expect(worstError(source, second)).toBeLessThan(FLOAT32_TOLERANCE)
    await runner.close()
  })

  test.each(['q4', 'q8'] as const)(
    '%s weights, with biases and head norms',
    { timeout: TIMEOUT_MS },
    async (form) => {
      const config = { hasQkvBias: true, hasQkNorm: true }
      const quantised = createRandomModel({ seed: 12, form, config })
      const runner = await startRunner(quantised, { executionProvider, accuracyLevel: 0 })
      const sequence = createSequence(quantised, { seed: 1, tokenCount: 40 })
      await play(runner, [sequence], [38, 1, 1])
      expect(worstError(quantised, sequence)).toBeLessThan(1e-3)
      await runner.close()
    },
  )

  test('preempted, and found in the cache', { timeout: TIMEOUT_MS }, async () => {
    await checkEngine(source, executionProvider)
  })

  if (executionProvider !== 'webgpu') return
  test('a cache that the device has no room for is one clear error', async () => {
    await expect(
      startRunner(source, { executionProvider, kvBudgetTokens: 2 ** 34 }),
    ).rejects.toThrow(`A KV cache of ${2 ** 34} tokens does not fit on the device`)
  })
})

/** A request gives way to a more urgent one that begins like it, and goes on afterwards. */
async function checkEngine(source: ModelSource, executionProvider: ExecutionProvider) {
  const runner = await startRunner(source, { executionProvider, kvBudgetTokens: 64 * 4 })
  const told = new Map<string, { tokenIds: number[]; logits: Float32Array[] }>()
  let unclaimed: Float32Array[] = []
  const engine = new Engine({
    runner: tapRunner(runner, (logits) => {
      unclaimed = logits.map((values) => values.slice())
    }),
    tokenBytes: () => new Uint8Array(),
    adapters: new Set(),
    limits: DEFAULT_ENGINE_LIMITS,
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => 0,
    emit: (event) => {
      if (event.kind !== 'token') return
      told.get(event.id)!.tokenIds.push(event.tokenId)
      told.get(event.id)!.logits.push(unclaimed.shift()!)
    },
    onFault: (error) => {
      throw error
    },
  })
  const beginning = Array.from({ length: 100 }, (_, at) => (at * 7) % 290)
  const requests = (['batch', 'interactive'] as const).map((tier, index) => {
    const promptTokens = [...beginning, ...Array.from({ length: 25 }, (_, at) => at + index)]
    return engineRequest({ id: tier, tier, promptTokens })
  })
  for (const request of requests) {
    told.set(request.id, { tokenIds: [], logits: [] })
    engine.submit(request)
    for (let step = 0; step < 4; step++) await engine.step()
  }
  while (engine.hasWork) await engine.step()
  expect(engine.stats.preemptionCount).toBeGreaterThan(0)
  expect(engine.stats.prefixHitTokenCount).toBeGreaterThanOrEqual(64)
  for (const { id, promptTokens, maxTokens } of requests) {
    const { tokenIds, logits } = told.get(id)!
    expect(logits).toHaveLength(maxTokens)
    const expected = referenceLogits(source, [...promptTokens, ...tokenIds], null)
    const errors = logits.flatMap((values, index) =>
      Array.from(values, (value, token) =>
        Math.abs(value - expected[promptTokens.length - 1 + index]![token]!),
      ),
    )
    expect(Math.max(...errors)).toBeLessThan(FLOAT32_TOLERANCE)
  }
  await runner.close()
}
