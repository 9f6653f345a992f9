import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createInstallation, getJson, type Installation } from '../support/installation.ts'
import {
  descendantsOf,
  isAlive,
  type StartedStack,
  spawnStack,
  waitUntil,
} from '../support/stack.ts'

describe('npm start', () => {
  let installation: Installation
  let stack: StartedStack
  beforeAll(async () => {
    installation = await createInstallation()
    stack = await installation.start()
  })
  afterAll(async () => {
    await stack?.interrupt()
    await installation?.remove()
  })

  const client = () => new OpenAI({ baseURL: stack.baseUrl, apiKey: stack.apiKey, maxRetries: 0 })
  const question = [{ role: 'user' as const, content: 'What is the capital of France?' }]

  it('prints where everything is, as one line of JSON', async () => {
    expect(stack.apiKey).toMatch(/^tg_/)
    expect(await (await fetch(stack.dashboardUrl)).json()).toMatchObject({ status: 'ok' })
    expect((await fetch(`${stack.backendUrl}/health`)).status).toBe(200)
    expect((await fetch(`${stack.daUrl}/health`)).status).toBe(200)
    const code = await fetch(stack.rpcUrl, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        jsonrpc: '2.0',
        id: 1,
        method: 'eth_getCode',
        params: [stack.contracts.usageAnchor, 'latest'],
      }),
    })
    expect(((await code.json()) as { result: string }).result.length).toBeGreaterThan(2)
  })

  it('serves the official client with nothing changed but base URL and key', async () => {
    const models = (await client().models.list()).data
    const model = stack.model ?? ''
    expect(models[0]?.id).toBe(model)
    expect(models.map(({ id }) => id)).toEqual(expect.arrayContaining(['ada-1', 'ada-4']))

    const plain = await client().chat.completions.create({
      model,
      messages: question,
      max_tokens: 12,
      seed: 5,
    })
    expect(plain.usage).toMatchObject({ completion_tokens: 12 })
    expect(plain.choices[0]).toMatchObject({ finish_reason: 'length', index: 0 })

    const streamed: OpenAI.ChatCompletionChunk[] = []
    const stream = await client().chat.completions.create({
      model,
      messages: question,
      max_tokens: 12,
      seed: 5,
      stream: true,
    })
    for await (const chunk of stream) streamed.push(chunk)
    const text = streamed.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('')
    expect(text).toBe(plain.choices[0]!.message.content)
    expect(streamed.every((chunk) => chunk.usage == null && chunk.choices.length === 1)).toBe(true)

    const metered = await client().chat.completions.create({
      model: 'ada-1',
      messages: question,
      max_tokens: 12,
      stream: true,
      stream_options: { include_usage: true },
    })
    let last: OpenAI.ChatCompletionChunk | undefined
    for await (const chunk of metered) last = chunk
    expect(last).toMatchObject({ choices: [], usage: { completion_tokens: 12 } })
  })

  it('refuses an unknown model and a bad key as the official client expects', async () => {
    await expect(
      client().chat.completions.create({ model: 'no-such-model', messages: question }),
    ).rejects.toMatchObject({ status: 404, code: 'model_not_found', param: 'model' })
    const stranger = new OpenAI({ baseURL: stack.baseUrl, apiKey: 'tg_wrong', maxRetries: 0 })
    await expect(stranger.models.list()).rejects.toMatchObject({ code: 'invalid_api_key' })
  })

  it('refuses a prompt that does not fit, and serves on', async () => {
    const model = (await client().models.list()).data[0]!.id
    await expect(
      client().chat.completions.create({
        model,
        messages: [{ role: 'user', content: 'word '.repeat(2_000) }],
      }),
    ).rejects.toMatchObject({ status: 400, code: 'context_length_exceeded' })
    const answer = await client().chat.completions.create({
      model,
      messages: question,
      max_tokens: 2,
    })
    expect(answer.usage?.completion_tokens).toBe(2)
  })

  it('refuses a second start on the same state, and a port in use', async () => {
    await expect(installation.start()).rejects.toThrow(/is in use by process \d+.*--state/)
    const server = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    const { port } = server.address() as AddressInfo
    await expect(
      spawnStack(['--port', String(port), '--state', join(installation.folder, 'other')]),
    ).rejects.toThrow(`Port ${port} is in use`)
    server.close()
  })

  it('names what is wrong with its options and leaves nothing running', async () => {
    const state = join(installation.folder, 'third')
    const missing = join(installation.folder, 'missing.gguf')
    await expect(spawnStack(['--port', '0', '--state', state, '--model', missing])).rejects.toThrow(
      'missing.gguf',
    )
    await expect(spawnStack(['--precision', 'int3'])).rejects.toThrow('--precision')
    await expect(spawnStack(['--port', '99999999'])).rejects.toThrow('--port')
    await expect(spawnStack(['--upstream', 'ftp://x'])).rejects.toThrow('--upstream')
  })

  it('ends every process on Ctrl-C and finds its account and usage again', async () => {
    const started = descendantsOf(stack.child.pid!)
    expect(started.some(({ command }) => command.includes('workerd'))).toBe(true)
    expect(started.some(({ command }) => command.includes('anvil'))).toBe(true)
    expect(started.some(({ command }) => command.includes('gpu-backend'))).toBe(true)
    const before = await getJson(stack, '/usage?group_by=model')
    expect(await stack.interrupt()).toBe(0)
    await waitUntil(
      async () => started.filter(({ pid }) => isAlive(pid)),
      (left) => left.length === 0,
      5_000,
    )

    const { apiKey, contracts } = stack
    stack = await installation.start()
    expect(stack).toMatchObject({ apiKey, contracts })
    const after = await getJson(stack, '/usage?group_by=model')
    expect(after.sums).toEqual(before.sums)
    expect(after.sums.length).toBeGreaterThan(0)
  })
})
