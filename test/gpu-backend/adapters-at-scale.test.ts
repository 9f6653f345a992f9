import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readAdapterFile } from '../../gpu-backend/adapters/adapter-file.ts'
import { registerStartupAdapters } from '../../gpu-backend/adapters/startup-adapters.ts'
import { type RunningServer, startServer } from '../../gpu-backend/api/server.ts'
import type { Services } from '../../gpu-backend/api/services.ts'
import { readConfig } from '../../gpu-backend/config.ts'
import { createServices } from '../../gpu-backend/create-services.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../gpu-backend/engine/scheduler.ts'
import { startThreadEngine, type ThreadEngine } from '../../gpu-backend/thread-engine.ts'
import { engineRequest } from '../support/engine-request.ts'
import { writePeftAdapter } from '../support/peft-adapter.ts'
import { createRandom } from '../support/random.ts'
import { TINY_CONFIG, writeTinyGguf } from '../support/tiny-model.ts'

const ADAPTER_COUNT = 1000
const RESIDENT_COUNT = 50
const REQUEST_COUNT = 300
const MAX_TOKENS = 5
/** Of an adapter of rank 1 on q and v. */
const RANK_BYTES = 2 * (64 + 64 + 64 + 32) * 4
const RAM_BYTES = RESIDENT_COUNT * 2 * RANK_BYTES

const rankOf = (index: number) => [1, 2, 3][index % 3]!
const nameOf = (index: number) => `tiny-${String(index).padStart(4, '0')}`

let folder: string
let engine: ThreadEngine
let services: Services
let server: RunningServer
const shutdown = new AbortController()

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'scale-'))
  const modelPath = join(folder, 'tiny.gguf')
  const adaptersDir = join(folder, 'adapters')
  writeTinyGguf(modelPath, { seed: 3 })
  for (let index = 0; index < ADAPTER_COUNT; index++) {
    await writePeftAdapter(join(adaptersDir, nameOf(index)), TINY_CONFIG, {
      rank: rankOf(index),
      modules: ['q', 'v'],
      seed: index + 1,
      amplitude: 2,
    })
  }
  engine = await startThreadEngine(
    {
      modelPath,
      precision: 'fp32',
      runner: { executionProvider: 'cpu', threadCount: 1, kvBudgetTokens: 4096 },
      limits: DEFAULT_ENGINE_LIMITS,
      prefixSharing: 'tenant',
    },
    ({ detail }) => {
      throw new Error(detail)
    },
  )
  const config = readConfig({
    MODEL: modelPath,
    ADAPTERS_DIR: adaptersDir,
    ADAPTER_RAM_BYTES: String(RAM_BYTES),
  })
  const log = () => undefined
  services = createServices(config, {
    engine,
    store: null,
    datanets: null,
    log,
    shutdownSignal: shutdown.signal,
  })
  await registerStartupAdapters(adaptersDir, {
    adapters: services.adapters,
    planAdapter: services.adapterIntake.planFolder,
    log,
  })
  server = await startServer(services, { host: '127.0.0.1', port: 0 })
}, 120_000)

afterAll(async () => {
  shutdown.abort()
  await server.close(shutdown.signal)
  await engine.close()
  await rm(folder, { recursive: true })
})

/** Indexes drawn by Zipf's law with exponent 1.1. */
function drawZipf(seed: number, count: number): readonly number[] {
  const random = createRandom(seed)
  const sums: number[] = []
  for (let rank = 1; rank <= ADAPTER_COUNT; rank++) sums.push((sums.at(-1) ?? 0) + rank ** -1.1)
  return Array.from({ length: count }, () => {
    const drawn = random() * sums.at(-1)!
    const rank = sums.findIndex((sum) => sum > drawn)
    return (rank * 7919) % ADAPTER_COUNT
  })
}

const PROMPT = 'once upon a time'

async function ask(model: string) {
  const response = await fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify({ model, prompt: PROMPT, max_tokens: MAX_TOKENS, temperature: 0 }),
  })
  const body = (await response.json()) as {
    choices: { text: string }[]
    tallygate: { adapter_digest: string }
  }
  return { text: body.choices[0]!.text, digest: body.tallygate.adapter_digest }
}

/** What the engine says with nothing but this adapter in it, past the registry. */
async function answerAlone(index: number): Promise<{ text: string; digest: string }> {
  const rootDir = join(folder, 'adapters')
  const weights = await readAdapterFile(join(rootDir, nameOf(index)), engine.model.config, {
    rootDir,
    maxFileBytes: 1_000_000,
  })
  const { digest } = weights
  await engine.loadAdapter(weights)
  const request = engineRequest({
    id: `alone-${index}`,
    promptTokens: services.model.encodeText(PROMPT),
    adapter: digest,
    maxTokens: MAX_TOKENS,
    stopTokenIds: services.model.stopTokenIds,
  })
  let text = ''
  for await (const event of engine.generate(request, new AbortController().signal)) {
    if (event.kind === 'token' || event.kind === 'finish') text += event.text
  }
  await engine.unloadAdapter(digest)
  return { text, digest }
}

/** A plain LRU by bytes: the loads and evictions that a sequence of uses makes. */
function simulateLru(uses: readonly number[]) {
  const held: number[] = []
  let loadCount = 0
  let evictionCount = 0
  const sizeOf = (index: number) => rankOf(index) * RANK_BYTES
  for (const index of uses) {
    const at = held.indexOf(index)
    if (at >= 0) held.splice(at, 1)
    else loadCount += 1
    held.push(index)
    while (held.reduce((sum, other) => sum + sizeOf(other), 0) > RAM_BYTES) {
      held.shift()
      evictionCount += 1
    }
  }
  return { loadCount, evictionCount, held }
}

test('a thousand adapters through memory for fifty: each answers as if alone, and the memory is a true LRU', async () => {
  expect(services.adapters.list().map(({ id, state }) => `${id} ${state}`)).toEqual(
    Array.from({ length: ADAPTER_COUNT }, (_, index) => `${nameOf(index)} on_disk`),
  )
  expect(services.adapterStats()).toMatchObject({ residentCount: 0, loadCount: 0 })

  const inTurn = drawZipf(1, REQUEST_COUNT)
  const atOnce = drawZipf(2, REQUEST_COUNT)
  const alone = new Map<number, { text: string; digest: string }>()
  for (const index of new Set([...inTurn, ...atOnce])) alone.set(index, await answerAlone(index))
  expect(alone.size).toBeGreaterThan(3 * RESIDENT_COUNT)
  expect(new Set([...alone.values()].map(({ text }) => text)).size).toBeGreaterThan(alone.size / 2)

  for (const index of inTurn) expect(await ask(nameOf(index))).toEqual(alone.get(index))
  const predicted = simulateLru(inTurn)
  expect(predicted.evictionCount).toBeGreaterThan(RESIDENT_COUNT)
  expect(services.adapterStats()).toMatchObject({
    loadCount: predicted.loadCount,
    evictionCount: predicted.evictionCount,
    hitCount: REQUEST_COUNT - predicted.loadCount,
    residentCount: predicted.held.length,
  })
  const ready = services.adapters.list().filter(({ state }) => state === 'ready')
  expect(ready.map(({ id }) => id)).toEqual(predicted.held.map(nameOf).sort())

  const queue = atOnce.values()
  const work = async () => {
    for (const index of queue) expect(await ask(nameOf(index))).toEqual(alone.get(index))
  }
  await Promise.all(Array.from({ length: 24 }, work))
  const stats = services.adapterStats()
  expect(stats.waitingCount).toBe(0)
  expect(stats.residentCount).toBe(stats.loadCount - stats.evictionCount)
  expect(stats.usedBytes).toBeLessThanOrEqual(RAM_BYTES)
  expect((await engine.stats()).loadedAdapterCount).toBe(stats.residentCount)
  for (const { useCount, waitingCount } of services.adapters.list()) {
    expect(useCount + waitingCount).toBe(0)
  }

  const ids = services.adapters.list().map(({ id }) => id)
  await Promise.all(ids.map((id) => services.adapters.unregister(id)))
  expect(services.adapters.list()).toEqual([])
  expect(services.adapterStats()).toMatchObject({ residentCount: 0, usedBytes: 0 })
  expect(await engine.stats()).toMatchObject({ loadedAdapterCount: 0, kvUsedTokens: 0 })
}, 120_000)
