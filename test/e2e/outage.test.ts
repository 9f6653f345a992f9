import { join } from 'node:path'
import { expect, it } from 'vitest'
import { startDaStandIn } from '../../scripts/da-stand-in.ts'
import { claimPort } from '../../scripts/free-port.ts'
import { startLocalChain } from '../../scripts/local-chain.ts'
import {
  callAdmin,
  createInstallation,
  getJson,
  settledUsage,
  streamChat,
} from '../support/installation.ts'
import { waitUntil } from '../support/stack.ts'

it('serves on while chain and DA are down, and anchors what it served when they are back', async () => {
  const installation = await createInstallation()
  const chainOptions = { port: await claimPort(0), stateDir: join(installation.folder, 'chain') }
  const daOptions = { port: await claimPort(0), stateDir: join(installation.folder, 'da') }
  let chain = await startLocalChain(chainOptions)
  let da = await startDaStandIn(daOptions)
  process.env.BATCH_MAX_AGE_MS = '0'
  const stack = await installation.start('--rpc', chain.rpcUrl, '--da', da.url)
  try {
    await Promise.all([chain.close(), da.close()])
    const seen = await streamChat(stack, { model: 'ada-1', maxTokens: 5 })
    expect(seen?.ending).toBe('done')
    expect(await settledUsage(stack)).toHaveLength(1)

    const failing = await waitUntil(
      async () => {
        await callAdmin(stack, 'POST', '/anchor')
        return (await callAdmin(stack, 'GET', '/batches')).data[0]
      },
      (batch) => batch?.last_error,
    )
    expect(failing).toMatchObject({ id: 1, state: 'archived', leaf_count: 1, tx_hash: null })
    expect(await getJson(stack, `/receipts/${seen?.requestId}`)).toMatchObject({ state: 'pending' })

    chain = await startLocalChain(chainOptions)
    da = await startDaStandIn(daOptions)
    const receipt = await waitUntil(
      async () => {
        await callAdmin(stack, 'POST', '/anchor')
        return getJson(stack, `/receipts/${seen?.requestId}`)
      },
      ({ state }) => state === 'anchored',
    )
    expect(receipt).toMatchObject({ batch: { id: 1 }, da: { kind: 'eigenda' } })
    expect((await callAdmin(stack, 'GET', '/batches')).data).toMatchObject([{ last_error: null }])
  } finally {
    delete process.env.BATCH_MAX_AGE_MS
    await stack.interrupt()
    await Promise.all([chain.close(), da.close()])
    await installation.remove()
  }
})
