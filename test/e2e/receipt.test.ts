import { execFile } from 'node:child_process'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { digestMerge } from '../../protocol/adapter-merge.ts'
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

describe('adapters merged for a request', () => {
  const adapters = [
    { id: 'ada-1', weight: 1.5 },
    { id: 'ada-3', weight: 0.5 },
  ]
  const ask = async (tallygate: object, { apiKey = stack.apiKey, model = '' } = {}) => {
    const { data } = await getJson(stack, '/models')
    const base = data.find(({ parent }: { parent: string | null }) => parent === null)
    const response = await fetch(`${stack.baseUrl}/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
      body: JSON.stringify({
        model: model || base.id,
        messages: [{ role: 'user', content: 'Tell me something.' }],
        max_tokens: 4,
        tallygate,
      }),
    })
    const requestId = response.headers.get('x-request-id') ?? ''
    // biome-ignore lint/suspicious/noExplicitAny: whatever the endpoint answers
    return { status: response.status, requestId, body: (await response.json()) as any }
  }

  it('pay all their owners by weight, and the receipt proves it', async () => {
    const { status, requestId, body } = await ask({ adapters })
    expect(status).toBe(200)
    expect(body.tallygate).toBeUndefined()
    const line = (await settledUsage(stack)).find((each) => each.request_id === requestId)
    expect(line).toMatchObject({ outcome: 'completed', completion_tokens: 4 })
    const receipt = await anchoredReceipt(requestId)
    const { leaf, merge, credits } = receipt
    expect(leaf.version).toBe(2)
    expect(leaf.adapterDigest).toBe(digestMerge(merge))
    expect(merge).toMatchObject({ method: 'linear', densityPpm: null })
    const owners = credits.filter(({ role }: { role: string }) => role === 'adapter_owner')
    expect(owners.map(({ payee, ppm }: { payee: string; ppm: number }) => [payee, ppm])).toEqual([
      [`0x${'1'.repeat(40)}`, 525_000],
      [`0x${'3'.repeat(40)}`, 175_000],
    ])
    expect(await verify(receipt)).toMatchObject({
      code: 0,
      output: expect.stringMatching(/✓ merge/),
    })
    const [first, ...others] = merge.members
    const heavier = { ...first, weightPpm: first.weightPpm + 1 }
    const digestOfAnother = { ...receipt, merge: { ...merge, members: [heavier, ...others] } }
    expect(await verify(digestOfAnother)).toMatchObject({
      code: 1,
      output: expect.stringMatching(/✗ merge/),
    })
    const thief = { ...first, owner: `0x${'9'.repeat(40)}` }
    const ownedByAnother = { ...receipt, merge: { ...merge, members: [thief, ...others] } }
    expect(await verify(ownedByAnother)).toMatchObject({
      code: 1,
      output: expect.stringMatching(/✗ split/),
    })
  })

  it('must each be allowed to the key, be there, and fit', async () => {
    const { account_id: accountId } = await getJson(stack, '/key')
    const { data } = await getJson(stack, '/models')
    const base = data.find(({ parent }: { parent: string | null }) => parent === null)
    const { api_key: apiKey } = await callAdmin(stack, 'POST', `/accounts/${accountId}/keys`, {
      name: 'of ada-1 alone',
      models: [base.id, 'ada-1'],
    })
    const error = (code: string, param: string) => ({ error: { code, param } })
    const cases = [
      [ask({ adapters: adapters.slice(0, 1) }, { apiKey }), 200, {}],
      [ask({ adapters }, { apiKey }), 403, error('model_not_allowed', 'tallygate.adapters.1.id')],
      [
        ask({ adapters: [{ id: 'ada-9' }] }),
        404,
        error('model_not_found', 'tallygate.adapters.0.id'),
      ],
      [ask({ adapters }, { model: 'ada-1' }), 400, error('invalid_request', 'model')],
      [ask({ adapters: [] }), 400, error('invalid_request', 'tallygate.adapters')],
      [ask({ adapters, merge: 'ties' }), 400, error('invalid_request', 'tallygate.density')],
      [
        ask({ adapters, merge: 'ties', density: 0.5 }),
        422,
        error('adapter_rejected', 'tallygate.adapters'),
      ],
    ] as const
    for (const [answer, status, body] of cases) expect(await answer).toMatchObject({ status, body })
  })
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
