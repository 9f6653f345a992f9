import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readAdapterFile } from '../../../gpu-backend/adapters/adapter-file.ts'
import { startServer } from '../../../gpu-backend/api/server.ts'
import { readConfig } from '../../../gpu-backend/config.ts'
import { createServices } from '../../../gpu-backend/create-services.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../../gpu-backend/engine/scheduler.ts'
import type { ModelSource } from '../../../gpu-backend/model/model-source.ts'
import { openModel } from '../../../gpu-backend/model/open-model.ts'
import { createTokenizer } from '../../../gpu-backend/text/tokenizer.ts'
import { startThreadEngine, type ThreadEngine } from '../../../gpu-backend/thread-engine.ts'
import { requestReportSchema } from '../../../protocol/backend.ts'
import { writePeftAdapter } from '../../support/peft-adapter.ts'
import { referenceStates } from '../../support/reference-llama.ts'
import { createTemporaryFolder, type TemporaryFolder } from '../../support/temporary-folder.ts'
import { writeTinyFolder } from '../../support/tiny-model.ts'

let folder: TemporaryFolder
let engine: ThreadEngine
let server: Awaited<ReturnType<typeof startServer>>
let client: OpenAI
let source: ModelSource
const shutdown = new AbortController()

beforeAll(async () => {
  folder = await createTemporaryFolder()
  const modelPath = join(folder.path, 'tiny-qwen')
  const adaptersDir = join(folder.path, 'adapters')
  writeTinyFolder(modelPath, { seed: 31, family: 'qwen3' })
  source = await openModel(modelPath, { precision: 'fp32' })
  await mkdir(join(adaptersDir, 'one'), { recursive: true })
  await writePeftAdapter(join(adaptersDir, 'one'), source.config, { seed: 1, amplitude: 1 })
  engine = await startThreadEngine(
    {
      modelPath,
      precision: 'fp32',
      runner: { executionProvider: 'cpu', threadCount: 1, kvBudgetTokens: 64 * 64 },
      limits: DEFAULT_ENGINE_LIMITS,
      prefixSharing: 'tenant',
    },
    ({ detail }) => expect.fail(detail),
  )
  const config = readConfig({ MODEL: modelPath, ADAPTERS_DIR: adaptersDir, PORT: '0' })
  const services = createServices(config, {
    engine,
    store: null,
    datanets: null,
    log: () => undefined,
    shutdownSignal: shutdown.signal,
  })
  const { adapters, adapterIntake } = services
  await adapters.register(await adapterIntake.planFolder('one', {}), { isKept: false })
  server = await startServer(services, { host: '127.0.0.1', port: 0 })
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'unused', maxRetries: 0 })
})

afterAll(async () => {
  shutdown.abort()
  await server.close(shutdown.signal)
  await engine.close()
  await folder.remove()
})

const LONG = 'the cat and the hat in the rain '.repeat(12)

function encode(text: string): number[] {
  return createTokenizer(source.tokenizer).encode(text, { specials: false })
}

/** The mean of the reference's states, at length 1. */
async function expectedVector(tokens: readonly number[], adapter?: string): Promise<number[]> {
  const weights = adapter
    ? await readAdapterFile(join(folder.path, 'adapters', adapter), source.config, {
        rootDir: join(folder.path, 'adapters'),
        maxFileBytes: 1e7,
      })
    : null
  const states = referenceStates(source, tokens, weights)
  const sum = states.reduce((left, right) => left.map((value, i) => value + right[i]!))
  return unit([...sum])
}

function unit(vector: readonly number[]): number[] {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value ** 2, 0))
  return vector.map((value) => value / length)
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length)
  actual.forEach((value, i) => {
    expect(Math.abs(value - expected[i]!)).toBeLessThan(1e-5)
  })
}

describe('POST /v1/embeddings', () => {
  test('is the mean of the reference’s states, for base and adapter, over several chunks', async () => {
    const tokens = encode(LONG)
    expect(tokens.length).toBeGreaterThan(DEFAULT_ENGINE_LIMITS.chunkTokens)
    const base = await client.embeddings.create({ model: 'tiny-qwen', input: LONG })
    const adapted = await client.embeddings.create({ model: 'one', input: LONG })
    expectClose(base.data[0]!.embedding, await expectedVector(tokens))
    expectClose(adapted.data[0]!.embedding, await expectedVector(tokens, 'one'))
    expect(base.usage.prompt_tokens).toBe(tokens.length)
    expect(base.usage.total_tokens).toBe(tokens.length)
  })

  test('takes texts and token ids, in order, and gives the same beside other work', async () => {
    const texts = [LONG, 'a', 'the rain in Spain', LONG]
    const alone: number[][] = []
    for (const input of texts) {
      const { data } = await client.embeddings.create({ model: 'tiny-qwen', input })
      alone.push(data[0]!.embedding)
    }
    const stream = client.completions.create({ model: 'one', prompt: 'once', max_tokens: 40 })
    const together = await client.embeddings.create({ model: 'tiny-qwen', input: texts })
    const ids = await client.embeddings.create({ model: 'tiny-qwen', input: texts.map(encode) })
    const one = await client.embeddings.create({ model: 'tiny-qwen', input: encode(LONG) })
    await stream
    expect(together.data.map(({ embedding }) => embedding)).toEqual(alone)
    expect(ids.data.map(({ embedding, index }) => [index, embedding])).toEqual(
      alone.map((embedding, index) => [index, embedding]),
    )
    expect(one.data[0]!.embedding).toEqual(alone[0])
    const counts = texts.map((text) => encode(text).length)
    expect(together.usage.prompt_tokens).toBe(counts.reduce((sum, count) => sum + count))
  })

  test('says the same as floats and as base64, which the client asks for by itself', async () => {
    const request = { model: 'tiny-qwen', input: 'a hat' }
    const asked = await client.embeddings.create(request)
    const floats = await client.embeddings.create({ ...request, encoding_format: 'float' })
    const response = await fetch(`${server.url}/v1/embeddings`, {
      method: 'POST',
      body: JSON.stringify({ ...request, encoding_format: 'base64' }),
    })
    const { data } = (await response.json()) as { data: { embedding: string }[] }
    expect(floats.data[0]!.embedding).toEqual(asked.data[0]!.embedding)
    const bytes = Buffer.from(data[0]!.embedding, 'base64')
    expect(bytes.readFloatLE(0)).toBe(asked.data[0]!.embedding[0])
  })

  test('cuts to the dimensions that are asked for, at length 1 again', async () => {
    const request = { model: 'tiny-qwen', input: 'a hat' }
    const whole = (await client.embeddings.create(request)).data[0]!.embedding
    const cut = await client.embeddings.create({ ...request, dimensions: 10 })
    expectClose(cut.data[0]!.embedding, unit(whole.slice(0, 10)))
  })

  test('files a report of what was used', async () => {
    const response = await fetch(`${server.url}/v1/embeddings`, {
      method: 'POST',
      headers: { 'x-request-id': 'req_embedded1' },
      body: JSON.stringify({ model: 'one', input: ['a', 'the'] }),
    })
    const { tallygate } = (await response.json()) as { tallygate: object }
    const found = await fetch(`${server.url}/tallygate/requests/req_embedded1`)
    const report = requestReportSchema.parse(await found.json())
    expect(report).toMatchObject({ state: 'completed', tallygate })
    const count = encode('a').length + encode('the').length
    expect(report.usage).toEqual({
      prompt_tokens: count,
      completion_tokens: 0,
      total_tokens: count,
    })
  })

  test.each<[object, string]>([
    [{ input: '' }, 'input'],
    [{ input: [] }, 'input'],
    [{ input: ['a', ''] }, 'input'],
    [{ input: [99_999] }, 'input'],
    [{ input: new Array(513).fill(5) }, 'input'],
    [{ dimensions: 0 }, 'dimensions'],
    [{ dimensions: 65 }, 'dimensions'],
    [{ encoding_format: 'int8' }, 'encoding_format'],
    [{ model: 'nobody' }, 'model'],
  ])('refuses %o with the field at fault', async (fields, param) => {
    const response = await fetch(`${server.url}/v1/embeddings`, {
      method: 'POST',
      body: JSON.stringify({ model: 'tiny-qwen', input: 'a', ...fields }),
    })
    expect(response.ok).toBe(false)
    const { error } = (await response.json()) as { error: { param: string } }
    expect(error.param).toBe(param)
  })
})
