import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { createModelRunner } from '../../../gpu-backend/compute/model-runner.ts'
import { Engine } from '../../../gpu-backend/engine/engine.ts'
import type { EngineEvent, EngineRequest } from '../../../gpu-backend/engine/engine-port.ts'
import type { ModelRunner } from '../../../gpu-backend/engine/model-runner.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../../gpu-backend/engine/scheduler.ts'
import { engineRequest, GREEDY } from '../../support/engine-request.ts'
import { createRandomAdapter } from '../../support/random-adapter.ts'
import { createRandomModel } from '../../support/random-model.ts'
import { tapRunner } from '../../support/tap-runner.ts'

/** Wide enough for ONNX Runtime to cut the products into blocks. */
const SHAPE = { hiddenSize: 288, headSize: 48, headCount: 6, kvHeadCount: 2, ffnSize: 640 }

interface Answer {
  readonly tokenIds: number[]
  /** By sampled token, the SHA-256 of the logits [V] float32 that it was drawn from. */
  readonly logits: string[]
  end: EngineEvent | null
}

const digest = (values: Float32Array) => createHash('sha256').update(values).digest('hex')

/** Runs the requests and notes the logits of every token that was sampled. */
async function runEngine(runner: ModelRunner, adapter: string, waves: readonly EngineRequest[][]) {
  const answers = new Map<string, Answer>()
  let unclaimed: string[] = []
  const engine = new Engine({
    runner: tapRunner(runner, (logits) => {
      unclaimed = logits.map(digest)
    }),
    tokenBytes: () => new Uint8Array(),
    adapters: new Set([adapter]),
    limits: DEFAULT_ENGINE_LIMITS,
    modelDigest: 'model',
    prefixSharing: 'tenant',
    nowMs: () => 0,
    emit: (event) => {
      const answer = answers.get(event.id)!
      if (event.kind !== 'token') answer.end = event
      else {
        answer.tokenIds.push(event.tokenId)
        answer.logits.push(unclaimed.shift()!)
      }
    },
    onFault: (error) => {
      throw error
    },
  })
  for (const requests of waves) {
    for (const request of requests) {
      answers.set(request.id, { tokenIds: [], logits: [], end: null })
      engine.submit(request)
    }
    while (engine.hasWork) await engine.step()
  }
  return { answers, stats: engine.stats }
}

describe('found, copied and preempted: the same logits as cold, to the last bit', () => {
  test.each([
    { form: 'f32', accuracyLevel: 0 },
    { form: 'q4', accuracyLevel: 4 },
    { form: 'rotated8', accuracyLevel: 4 },
  ] as const)('$form, activations at level $accuracyLevel', async ({ form, accuracyLevel }) => {
    const source = createRandomModel({ seed: 7, form, config: SHAPE })
    const adapter = createRandomAdapter({ seed: 1, config: source.config, rank: 8 })
    const beginning = Array.from({ length: 125 }, (_, at) => (at * 7) % 290)
    const request = (index: number, wave: string) =>
      engineRequest({
        id: `${wave} ${index}`,
        promptTokens: [...beginning.slice(0, index < 3 ? 125 : 70), index, 5, index],
        adapter: index % 2 === 0 ? adapter.digest : null,
        maxTokens: 70,
        sampling: { ...GREEDY, temperature: 1, seed: [index, 1] },
      })
    const indexes = [0, 1, 2, 3]
    const openRunner = async (kvBudgetTokens: number) => {
      const options = { executionProvider: 'cpu', threadCount: 1, kvBudgetTokens } as const
      const runner = await createModelRunner(source, { ...options, accuracyLevel })
      runner.loadAdapter(adapter)
      return runner
    }
    const roomy = await openRunner(64 * 64)
    const tight = await openRunner(64 * 7)
    const cold: Answer[] = []
    for (const index of indexes) {
      const { answers } = await runEngine(roomy, adapter.digest, [[request(index, 'cold')]])
      cold.push(answers.get(`cold ${index}`)!)
    }
    const waves = ['first', 'second'].map((wave) => indexes.map((index) => request(index, wave)))
    for (const runner of [roomy, tight]) {
      const { answers, stats } = await runEngine(runner, adapter.digest, waves)
      expect(stats.prefixHitTokenCount).toBeGreaterThanOrEqual(256)
      expect(stats.preemptionCount > 0).toBe(runner === tight)
      for (const [id, answer] of answers) {
        const expected = cold[Number(id.split(' ')[1])]!
        expect(answer.tokenIds, id).toEqual(expected.tokenIds)
        expect(answer.logits, id).toEqual(expected.logits)
        expect(answer.end).toMatchObject({ usage: { completionTokens: 70 } })
      }
    }
  })
})
