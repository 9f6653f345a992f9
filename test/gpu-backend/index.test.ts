import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import OpenAI from 'openai'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { requestReportSchema } from '../../protocol/backend.ts'
import { writePeftAdapter } from '../support/peft-adapter.ts'
import { TINY_CONFIG, writeTinyGguf } from '../support/tiny-model.ts'

const INDEX = join(import.meta.dirname, '../../gpu-backend/index.ts')

let folder: string
let modelPath: string
const children = new Set<ChildProcess>()

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'backend-'))
  modelPath = join(folder, 'tiny.gguf')
  writeTinyGguf(modelPath, { seed: 1 })
  await mkdir(join(folder, 'tmp'))
  const adapters = join(folder, 'adapters')
  for (const [index, name] of ['one', 'two', 'three'].entries()) {
    await writePeftAdapter(join(adapters, name), TINY_CONFIG, {
      seed: index,
      rank: 2 ** (index + 1),
      amplitude: 1,
    })
  }
  await writePeftAdapter(join(adapters, 'broken'), TINY_CONFIG, { config: { use_dora: true } })
})

afterAll(() => rm(folder, { recursive: true }))

/** Runs the backend as its operator does, with nothing of this process's environment but PATH. */
function run(env: Record<string, string>) {
  const child = spawn(process.execPath, [INDEX], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  children.add(child)
  const errorLines: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => errorLines.push(line))
  const exited = once(child, 'close').then(([code]) => code as number)
  return { child, errorLines, exited }
}

async function start(env: Record<string, string> = {}) {
  const { child, errorLines, exited } = run({
    MODEL: modelPath,
    PORT: '0',
    THREADS: '1',
    TMPDIR: join(folder, 'tmp'),
    ADAPTERS_DIR: join(folder, 'adapters'),
    ...env,
  })
  const line = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', resolve)
    exited.then((code) => reject(new Error(`exit code ${code}: ${errorLines.join('\n')}`)))
  })
  const { event, url, model } = JSON.parse(line)
  expect(event).toBe('listening')
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'unused', maxRetries: 0 })
  return { url: url as string, model: model as string, client, errorLines, exited, child }
}

afterEach(() => {
  for (const child of children) if (child !== shared?.child) child.kill('SIGKILL')
})

let shared: Awaited<ReturnType<typeof start>> | null = null

describe('a backend over a tiny model', () => {
  let backend: Awaited<ReturnType<typeof start>>

  beforeAll(async () => {
    backend = await start()
    shared = backend
  })

  afterAll(async () => {
    backend.child.kill('SIGTERM')
    expect(await backend.exited).toBe(0)
    // ONNX Runtime's telemetry would have left its files there.
    expect(await readdir(join(folder, 'tmp'))).toEqual([])
  })

  const ask = (model: string, maxTokens = 12) =>
    backend.client.chat.completions.create({
      model,
      messages: [{ role: 'user', content: 'once upon a time' }],
      temperature: 0,
      max_tokens: maxTokens,
    })
  const textOf = async (model: string) => (await ask(model)).choices[0]?.message.content

  test('loads the adapters of its folder, and logs the one that it rejects', async () => {
    const models = await backend.client.models.list()
    expect(models.data.map(({ id }) => id)).toEqual([backend.model, 'one', 'three', 'two'])
    const rejected = backend.errorLines.map((line) => JSON.parse(line))
    expect(rejected).toMatchObject([
      { event: 'adapter_rejected', adapter: 'broken', reason: expect.stringContaining('DoRA') },
    ])
  })

  test('answers base and adapters in one batch as each alone, and counts every token', async () => {
    const models = [backend.model, 'one', 'two', 'three', 'one', backend.model]
    const alone = new Map<string, string | null | undefined>()
    for (const model of new Set(models)) alone.set(model, await textOf(model))
    expect(new Set(alone.values()).size).toBe(4)
    const together = await Promise.all(models.map(textOf))
    expect(together).toEqual(models.map((model) => alone.get(model)))
    const { usage } = await ask('one', 7)
    expect(usage?.completion_tokens).toBe(7)
  })

  test('a stream says what the whole answer says, one frame a token', async () => {
    const whole = await ask('two')
    const stream = await backend.client.chat.completions.create({
      model: 'two',
      messages: [{ role: 'user', content: 'once upon a time' }],
      temperature: 0,
      max_tokens: 12,
      stream: true,
      stream_options: { include_usage: true },
    })
    let text = ''
    let frameCount = 0
    let usage: OpenAI.CompletionUsage | null | undefined
    for await (const chunk of stream) {
      const [choice] = chunk.choices
      text += choice?.delta.content ?? ''
      if (typeof choice?.delta.content === 'string' && choice.finish_reason === null)
        frameCount += 1
      usage = chunk.usage
    }
    expect(text).toBe(whole.choices[0]?.message.content)
    expect(usage).toEqual(whole.usage)
    expect(frameCount).toBe(12)
  })

  test('adapters come and go while streams of others run', async () => {
    const long = backend.client.completions.create({
      model: 'one',
      prompt: 'once',
      max_tokens: 200,
      temperature: 0,
    })
    await writePeftAdapter(join(folder, 'adapters/late'), TINY_CONFIG, { seed: 9, amplitude: 1 })
    for (let round = 0; round < 3; round++) {
      const body = JSON.stringify({ path: 'late' })
      const loaded = await fetch(`${backend.url}/v1/adapters`, { method: 'POST', body })
      expect(loaded.status).toBe(201)
      await textOf('late')
      const gone = await fetch(`${backend.url}/v1/adapters/late`, { method: 'DELETE' })
      expect(gone.status).toBe(200)
      await expect(textOf('late')).rejects.toMatchObject({ code: 'model_not_found' })
    }
    expect((await long).usage?.completion_tokens).toBe(200)
  })

  test('a prompt that was asked before is found in the cache: said in the usage and in the metrics', async () => {
    const { client, url } = backend
    const ask = () =>
      client.completions.create({
        model: 'one',
        prompt: 'once upon a time '.repeat(12),
        max_tokens: 1,
      })
    const first = await ask()
    const second = await ask()
    const cachedTokens = 64 * Math.floor((first.usage!.prompt_tokens - 1) / 64)
    expect(cachedTokens).toBeGreaterThan(0)
    expect(first.usage?.prompt_tokens_details?.cached_tokens).toBe(0)
    expect(second.usage).toMatchObject({ prompt_tokens_details: { cached_tokens: cachedTokens } })
    const metrics = await (await fetch(`${url}/metrics`)).text()
    const hitTokens = Number(/^vllm:prefix_cache_hits_total (\d+)$/m.exec(metrics)?.[1])
    expect(hitTokens).toBeGreaterThanOrEqual(cachedTokens)
    expect(metrics).toMatch(/^tallygate:kv_cached_tokens [1-9]\d*$/m)
  })

  test('a client that leaves frees its place in the engine', async () => {
    const abort = new AbortController()
    const headers = { 'x-request-id': 'req_left' }
    const stream = await backend.client.completions.create(
      { model: 'one', prompt: 'once', max_tokens: 480, stream: true },
      { headers, signal: abort.signal },
    )
    for await (const _ of stream) break
    const report = async () => {
      const response = await fetch(`${backend.url}/tallygate/requests/req_left`)
      return requestReportSchema.parse(await response.json())
    }
    let last = await report()
    while (last.state === 'running') last = await report()
    expect(last.state).toBe('cancelled')
    expect(last.usage.completion_tokens).toBeGreaterThan(0)
    expect(last.usage.completion_tokens).toBeLessThan(480)
    const metrics = await (await fetch(`${backend.url}/metrics`)).text()
    expect(metrics).toContain('\nvllm:num_requests_running 0\n')
    expect(metrics).toContain('\nvllm:gpu_cache_usage_perc 0\n')
  })
})

test('a stop lets the stream in flight end, takes nothing new, and exits with 0', async () => {
  const { client, child, exited, model } = await start()
  const stream = await client.completions.create({
    model,
    prompt: 'once',
    max_tokens: 300,
    stream: true,
  })
  let tokenCount = 0
  for await (const chunk of stream) {
    if (tokenCount === 0) child.kill('SIGTERM')
    if (chunk.choices[0]?.finish_reason === null) tokenCount += 1
  }
  expect(tokenCount).toBeGreaterThan(1)
  await expect(client.models.list()).rejects.toThrow()
  expect(await exited).toBe(0)
})

test('a stop without grace ends the stream with an error', async () => {
  const { client, child, exited, model } = await start({ SHUTDOWN_GRACE_MS: '0' })
  const stream = await client.completions.create({
    model,
    prompt: 'once',
    max_tokens: 480,
    stream: true,
  })
  const drained = (async () => {
    let isFirst = true
    for await (const _ of stream) {
      if (isFirst) child.kill('SIGINT')
      isFirst = false
    }
  })()
  await expect(drained).rejects.toMatchObject({ code: 'overloaded' })
  expect(await exited).toBe(0)
})

describe('a start that cannot succeed says why in its last line', () => {
  test.each([
    ['a missing model file', { MODEL: '/nowhere/model.gguf' }, /\/nowhere\/model\.gguf/],
    ['a missing folder', { ADAPTERS_DIR: '/nowhere' }, /ADAPTERS_DIR.*\/nowhere/],
    ['a missing provider', { EXECUTION_PROVIDER: 'cuda' }, /cuda/i],
  ])('%s', async (_, env, sentence) => {
    const { errorLines, exited } = run({ MODEL: modelPath, PORT: '0', ...env })
    expect(await exited).toBe(1)
    expect(errorLines.at(-1)).toMatch(sentence)
  })

  test('a port in use', async () => {
    const blocker = createServer().listen(0, '127.0.0.1')
    await once(blocker, 'listening')
    const address = blocker.address()
    const port = typeof address === 'object' && address ? String(address.port) : ''
    const { errorLines, exited } = run({ MODEL: modelPath, PORT: port })
    expect(await exited).toBe(1)
    expect(errorLines).toEqual([`Port ${port} of 127.0.0.1 is in use. Choose another by PORT.`])
    blocker.close()
  })
})
