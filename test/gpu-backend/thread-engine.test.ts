import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type {
  LoraModule,
  LoraModuleKey,
  LoraWeights,
} from '../../gpu-backend/adapters/lora-weights.ts'
import type { EngineEvent, EngineRequest } from '../../gpu-backend/engine/engine-port.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../gpu-backend/engine/scheduler.ts'
import type { EngineFault, EngineThreadOptions } from '../../gpu-backend/engine-messages.ts'
import { linearSizes } from '../../gpu-backend/model/model-source.ts'
import { listTokenBytes } from '../../gpu-backend/text/token-bytes.ts'
import { startThreadEngine, type ThreadEngine } from '../../gpu-backend/thread-engine.ts'
import type { Digest } from '../../protocol/digest.ts'
import { engineRequest, GREEDY } from '../support/engine-request.ts'
import { createRandom, gaussians } from '../support/random.ts'
import { TINY_CONFIG, writeTinyGguf } from '../support/tiny-model.ts'

const NEVER = new AbortController().signal
const ADAPTER: Digest = `0x${'ab'.repeat(32)}`
const SAMPLED = { ...GREEDY, temperature: 1.2, topP: 0.95 }

const folder = mkdtempSync(join(tmpdir(), 'tallygate-engine-'))
const options: EngineThreadOptions = {
  modelPath: join(folder, 'tiny.gguf'),
  precision: 'int8',
  runner: { executionProvider: 'cpu', threadCount: 1, kvBudgetTokens: 64 * 64 },
  limits: { ...DEFAULT_ENGINE_LIMITS, maxRunningCount: 16 },
  prefixSharing: 'tenant',
}
const faults: EngineFault[] = []
const noteFault = (fault: EngineFault) => void faults.push(fault)
let engine: ThreadEngine

beforeAll(async () => {
  writeTinyGguf(options.modelPath, { seed: 11 })
  engine = await startThreadEngine(options, noteFault)
})

afterAll(async () => {
  await engine.close()
  expect(await engine.closed).toBeNull()
  expect(faults).toEqual([])
  rmSync(folder, { recursive: true })
})

async function collect(request: EngineRequest, from = engine): Promise<EngineEvent[]> {
  const events: EngineEvent[] = []
  for await (const event of from.generate(request, NEVER)) events.push(event)
  return events
}

const textOf = (events: readonly EngineEvent[]) =>
  events.map((event) => ('text' in event ? event.text : '')).join('')
const tokensOf = (events: readonly EngineEvent[]) =>
  events.flatMap((event) => (event.kind === 'token' ? [event.tokenId] : []))

function randomAdapter(digest: Digest, seed: number): LoraWeights {
  const random = createRandom(seed)
  const modules = new Map<LoraModuleKey, LoraModule>()
  for (const linear of ['q', 'v'] as const) {
    const [inputs, outputs] = linearSizes(TINY_CONFIG)[linear]
    const rank = 4
    const a = gaussians(random, rank * inputs)
    modules.set(`0.${linear}`, { rank, scale: 1, a, b: gaussians(random, rank * outputs) })
  }
  return { digest, sizeBytes: 0, modules }
}

/** A prompt of several chunks and sampling of its own for each number. */
function variedRequest(index: number, adapter: string | null): EngineRequest {
  return engineRequest({
    id: `varied-${index}`,
    tenant: `tenant-${index % 3}`,
    promptTokens: Array.from({ length: 5 + 13 * index }, (_, at) => 3 + ((at * 7 + index) % 250)),
    adapter,
    maxTokens: 12,
    sampling: { ...SAMPLED, seed: [index, 1] },
  })
}

test('says which model it opened', () => {
  expect(engine.model).toMatchObject({
    name: 'tiny',
    digest: expect.stringMatching(/^0x[0-9a-f]{64}$/),
    config: { vocabSize: TINY_CONFIG.vocabSize },
    maxSequenceTokens: TINY_CONFIG.contextLength,
  })
})

test('streams the text of its tokens and counts them', async () => {
  const events = await collect(engineRequest({ id: 'r', maxTokens: 20, sampling: SAMPLED }))
  const bytes = listTokenBytes(engine.model.tokenizer)
  const answer = Buffer.concat(tokensOf(events).map((id) => bytes[id]!))
  expect(tokensOf(events)).toHaveLength(20)
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  expect(textOf(events)).toBe(decoder.decode(answer, { stream: true }))
  const usage = { promptTokens: 3, cachedTokens: 0, completionTokens: 20 }
  expect(events.at(-1)).toMatchObject({ kind: 'finish', reason: 'length', usage })
})

test('ends before a stop string', async () => {
  const request = engineRequest({ id: 'r', maxTokens: 30, sampling: SAMPLED })
  const whole = textOf(await collect(request))
  const stop = whole.slice(8, 11)
  const events = await collect({ ...request, stop: [stop] })
  expect(textOf(events)).toBe(whole.slice(0, whole.indexOf(stop)))
  expect(events.at(-1)).toMatchObject({ kind: 'finish', reason: 'stop' })
})

test('the same seed gives the same answer alone and in a batch of 16 with an adapter beside it', async () => {
  await engine.loadAdapter(randomAdapter(ADAPTER, 5))
  const requests = Array.from({ length: 16 }, (_, index) =>
    variedRequest(index, index % 2 === 0 ? ADAPTER : null),
  )
  const together = await Promise.all(requests.map((request) => collect(request)))
  for (const index of [0, 1, 6, 15]) {
    const alone = await collect(requests[index]!)
    const { promptTokens } = requests[index]!
    const cachedTokens = 64 * Math.floor((promptTokens.length - 1) / 64)
    expect(alone.slice(0, -1)).toEqual(together[index]!.slice(0, -1))
    expect(alone.at(-1)).toMatchObject({ kind: 'finish', usage: { cachedTokens } })
  }
  const answers = new Set(together.map((events) => tokensOf(events).join()))
  expect(answers.size).toBe(16)
  await engine.unloadAdapter(ADAPTER)
})

test('adapters come and go while others are served', async () => {
  const base = variedRequest(3, null)
  const expected = await collect(base)
  const busy = collect({ ...base, id: 'busy', maxTokens: 300 })
  await engine.loadAdapter(randomAdapter(ADAPTER, 6))
  const adapted = await collect({ ...base, id: 'adapted', adapter: ADAPTER })
  expect(adapted.at(-1)?.kind).toBe('finish')
  expect(tokensOf(adapted)).not.toEqual(tokensOf(expected))
  await engine.unloadAdapter(ADAPTER)
  const refused = await collect({ ...base, id: 'late', adapter: ADAPTER })
  expect(refused).toMatchObject([{ kind: 'error', code: 'adapter_missing' }])
  expect(tokensOf(await busy).slice(0, 12)).toEqual(tokensOf(expected))
})

test('an abort stops the work and reports what was used', async () => {
  const controller = new AbortController()
  const request = engineRequest({ id: 'r', maxTokens: 400 })
  const events: EngineEvent[] = []
  for await (const event of engine.generate(request, controller.signal)) {
    events.push(event)
    if (events.length === 5) controller.abort()
  }
  const completionTokens = events.length - 1
  expect(completionTokens).toBeLessThan(400)
  expect(events.at(-1)).toMatchObject({ kind: 'cancelled', usage: { completionTokens } })
  expect(await engine.stats()).toMatchObject({ runningCount: 0, waitingCount: 0, kvUsedTokens: 0 })
})

test('a missing model, a missing provider and impossible limits are one clear error each', async () => {
  const start = (changes: Partial<EngineThreadOptions>) =>
    startThreadEngine({ ...options, ...changes }, noteFault)
  await expect(start({ modelPath: join(folder, 'none.gguf') })).rejects.toThrow(
    `There is no model at ${join(folder, 'none.gguf')}.`,
  )
  await expect(start({ runner: { ...options.runner, executionProvider: 'cuda' } })).rejects.toThrow(
    '"cuda"',
  )
  await expect(start({ limits: { ...options.limits, chunkTokens: 0 } })).rejects.toThrow(
    'chunkTokens is 0',
  )
})

test('when the thread dies, its requests end, and it can be seen', async () => {
  const doomed = await startThreadEngine(options, noteFault)
  const answer = collect(engineRequest({ id: 'r', maxTokens: 500 }), doomed)
  const malformed = { ...engineRequest({ id: 'malformed' }), promptTokens: null as never }
  doomed.generate(malformed, NEVER)
  expect((await answer).at(-1)).toMatchObject({ kind: 'error', code: 'internal_error' })
  expect(await doomed.closed).toBeInstanceOf(TypeError)
  await expect(doomed.stats()).rejects.toThrow()
  await doomed.close()
})
