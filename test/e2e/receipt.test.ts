import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import {
  callAdmin,
  createInstallation,
  getJson,
  type Installation,
  settledUsage,
  streamChat,
} from '../support/installation.ts'
import { type StartedStack, waitUntil } from '../support/stack.ts'

const VERIFY = join(import.meta.dirname, '../../scripts/verify.ts')

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

async function anchoredReceipt(requestId: string) {
  return waitUntil(
    async () => {
      await callAdmin(stack, 'POST', '/anchor')
      return getJson(stack, `/receipts/${requestId}`)
    },
    (receipt) => receipt.state === 'anchored' || receipt.state === 'final',
  )
}

/** `npm run verify`: its exit code and what it printed. */
async function verify(
  receipt: unknown,
  ...options: readonly string[]
): Promise<{ code: number; output: string }> {
  const path = join(installation.folder, 'receipt.json')
  await writeFile(path, JSON.stringify(receipt))
  const state = ['--state', join(installation.folder, 'state')]
  return promisify(execFile)(process.execPath, [VERIFY, path, ...state, ...options]).then(
    ({ stdout }) => ({ code: 0, output: stdout }),
    (error) => ({ code: error.code, output: error.stdout + error.stderr }),
  )
}

it('gives each request a receipt that the verifier accepts, by either of its ids', async () => {
  const seen = await Promise.all(
    ['ada-1', 'ada-2'].map((model) => streamChat(stack, { model, maxTokens: 8 })),
  )
  await settledUsage(stack)
  for (const stream of seen) {
    const receipt = await anchoredReceipt(stream?.requestId ?? '')
    expect(receipt.leaf).toMatchObject({
      requestId: stream?.requestId,
      promptTokens: stream?.usage?.prompt_tokens,
      completionTokens: stream?.usage?.completion_tokens,
    })
    const alias = stream?.requestId.replace(/^req_/, 'chatcmpl-')
    expect(await getJson(stack, `/receipts/${alias}`)).toEqual(receipt)
    expect(await verify(receipt)).toMatchObject({ code: 0 })
    const nowhere = join(installation.folder, 'nowhere')
    const archive = stack.baseUrl.replace(/\/v1$/, '/batches')
    expect(
      await verify(receipt, ...['--state', nowhere, '--rpc', stack.rpcUrl, '--archive', archive]),
    ).toMatchObject({ code: 0, output: expect.stringContaining(archive) })
  }
})

it('names the step that a changed receipt fails at', async () => {
  const stream = await streamChat(stack, { model: 'ada-3', maxTokens: 8 })
  await settledUsage(stack)
  const receipt = await anchoredReceipt(stream?.requestId ?? '')
  const fee = { ...receipt, leaf: { ...receipt.leaf, feeMicroUsd: receipt.leaf.feeMicroUsd + 1 } }
  const block = {
    ...receipt,
    anchor: { ...receipt.anchor, blockNumber: receipt.anchor.blockNumber + 1 },
  }
  expect(await verify(fee)).toMatchObject({ code: 1, output: expect.stringMatching(/✗ split/) })
  expect(await verify(block)).toMatchObject({ code: 1, output: expect.stringMatching(/✗ anchor/) })
})

it("shows a receipt to nobody but the request's own account", async () => {
  const stream = await streamChat(stack, { model: 'ada-4', maxTokens: 2 })
  await settledUsage(stack)
  const { api_key: apiKey } = await callAdmin(stack, 'POST', '/accounts', { name: 'another' })
  const stranger = await getJson({ ...stack, apiKey }, `/receipts/${stream?.requestId}`)
  expect(stranger.error).toMatchObject({ code: 'not_found' })
})
