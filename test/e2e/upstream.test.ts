import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import OpenAI from 'openai'
import { expect, it } from 'vitest'
import { startDaStandIn } from '../../scripts/da-stand-in.ts'
import { startLocalChain } from '../../scripts/local-chain.ts'
import { settledUsage } from '../support/installation.ts'
import { startScriptedUpstream } from '../support/scripted-upstream.ts'
import { descendantsOf, spawnStack } from '../support/stack.ts'

it('meters any OpenAI-compatible server, on a chain and a DA that run elsewhere', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tallygate-upstream-'))
  const usage = { prompt_tokens: 9, completion_tokens: 2, total_tokens: 11 }
  const upstream = await startScriptedUpstream({
    foreign: {
      script: (exchange) =>
        exchange.sendJson(200, {
          id: 'chatcmpl-x',
          object: 'chat.completion',
          created: 1,
          model: 'foreign',
          choices: [
            {
              index: 0,
              message: { role: 'assistant', content: 'Hello there' },
              finish_reason: 'stop',
            },
          ],
          usage,
        }),
    },
  })
  const chain = await startLocalChain({ port: 0, stateDir: join(folder, 'chain') })
  const da = await startDaStandIn({ port: 0, stateDir: join(folder, 'da') })
  const stack = await spawnStack([
    ...['--port', '0', '--state', join(folder, 'state')],
    ...['--upstream', `${upstream.url}/v1`, '--rpc', chain.rpcUrl, '--da', da.url],
  ])
  try {
    expect(stack).toMatchObject({ rpcUrl: chain.rpcUrl, daUrl: da.url, backendUrl: upstream.url })
    const children = descendantsOf(stack.child.pid ?? 0)
    expect(children.some(({ command }) => /anvil|gpu-backend/.test(command))).toBe(false)
    const client = new OpenAI({ baseURL: stack.baseUrl, apiKey: stack.apiKey, maxRetries: 0 })
    const answer = await client.chat.completions.create({
      model: 'foreign',
      messages: [{ role: 'user', content: 'Hi' }],
    })
    expect(answer.choices[0]?.message.content).toBe('Hello there')
    expect(answer.usage).toEqual(usage)
    expect(await settledUsage(stack)).toMatchObject([
      { outcome: 'completed', prompt_tokens: 9, completion_tokens: 2 },
    ])
  } finally {
    await stack.interrupt()
    await Promise.all([chain.close(), da.close(), upstream.close()])
    await rm(folder, { recursive: true })
  }
})
