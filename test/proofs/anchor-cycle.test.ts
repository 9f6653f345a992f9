import { concat, hexToBytes, numberToHex, parseEther, parseGwei } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { decodeBatchPayload } from '../../protocol/batch-payload.ts'
import { usageAnchorAbi } from '../../protocol/usage-anchor-abi.ts'
import { deployContracts, LOCAL_DEV_KEY } from '../../scripts/deploy-contracts.ts'
import type { UsageRecord } from '../../worker/ledger/usage-record.ts'
import { UsageAnchorClient } from '../../worker/proofs/anchor-client.ts'
import { runAnchorCycle } from '../../worker/proofs/anchor-cycle.ts'
import type { CyclePorts } from '../../worker/proofs/cycle-ports.ts'
import { createDaClient, type DaClient } from '../../worker/proofs/da-client.ts'
import { createPorts, type ProofStack, startProofStack } from '../support/proof-stack.ts'
import { createRecord, insertRecords } from '../support/usage-records.ts'

/** Predeploy of the OP Stack. */
const GAS_PRICE_ORACLE = '0x420000000000000000000000000000000000000F'

const NOWHERE = 'http://127.0.0.1:9'

let stack: ProofStack
let ports: CyclePorts
let records: UsageRecord[]

beforeAll(async () => {
  stack = await startProofStack()
})

afterAll(() => stack.close())

beforeEach(async () => {
  ports = createPorts(stack)
  records = [createRecord(), createRecord()]
  await insertRecords(stack.database, records)
})

describe('runAnchorCycle', () => {
  it('takes records from the ledger to the chain in one go, and then has nothing left to do', async () => {
    const report = await runAnchorCycle(ports)
    expect(report.failures).toEqual([])
    expect(report.steps.map(({ action }) => action.split(' ')[0])).toEqual([
      ...['plan', 'archive', 'post', 'submit', 'confirm'],
    ])
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', daKind: 'eigenda' })
    expect(await runAnchorCycle(ports)).toEqual({
      ...{ steps: [], failures: [], oldestUnanchoredAtMs: null },
    })
    await expectAnchoredOnce(records)
  })

  it('leaves out what used no tokens', async () => {
    const empty = createRecord({ promptTokens: 0, cachedTokens: 0, completionTokens: 0 })
    await insertRecords(stack.database, [empty])
    await runAnchorCycle(ports)
    expect((await stack.store.findRecord(empty.requestId))?.batch).toBeNull()
    await expectAnchoredOnce(records)
  })

  const writes = [
    ...(['insertPlanned', 'put', 'markArchived', 'daPut', 'markPosted'] as const),
    ...(['markSubmitted', 'broadcast', 'markConfirmed'] as const),
  ]
  it.each(writes)('anchors each record once when the process dies right after %s', async (name) => {
    await expect(runAnchorCycle(dieAfter(name, ports))).rejects.toThrow('dead')
    const report = await runAnchorCycle(ports)
    expect(report).toMatchObject({ failures: [], oldestUnanchoredAtMs: null })
    await expectAnchoredOnce(records)
  })

  it('waits for the chain without losing anything', async () => {
    const options = { contract: stack.usageAnchor, privateKey: LOCAL_DEV_KEY } as const
    const chain = new UsageAnchorClient({ ...options, rpcUrl: NOWHERE })
    const report = await runAnchorCycle({ ...ports, chain })
    expect(report.oldestUnanchoredAtMs).toBe(records[0]?.completedAtMs)
    expect(report.failures.map(({ action }) => action.split(' ')[0])).toEqual(['read', 'submit'])
    expect(await newestBatch()).toMatchObject({
      state: 'da_posted',
      lastError: expect.stringContaining('HTTP request failed'),
    })
    expect(JSON.stringify(report)).not.toContain(NOWHERE)
    await runAnchorCycle(ports)
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', lastError: null })
    await expectAnchoredOnce(records)
  })

  it('names what the anchoring account lacks', async () => {
    const strangersKey = `0x${'7'.repeat(64)}` as const
    const options = { rpcUrl: stack.rpcUrl, contract: stack.usageAnchor }
    const chain = new UsageAnchorClient({ ...options, privateKey: strangersKey })
    const { failures } = await runAnchorCycle({ ...ports, chain })
    expect(failures[0]?.error).toContain('AccessControlUnauthorizedAccount')
    await runAnchorCycle(ports)
    await expectAnchoredOnce(records)
  })

  it('does not send what the account cannot pay for, the OP Stack’s L1 fee included', async () => {
    const { address } = privateKeyToAccount(LOCAL_DEV_KEY)
    const balanceWei = await stack.anvil.getBalance({ address })
    const l1FeeWei = parseEther('20000')
    expect(l1FeeWei).toBeGreaterThan(balanceWei)
    // An oracle that answers every call with that fee.
    const bytecode = concat(['0x7f', numberToHex(l1FeeWei, { size: 32 }), '0x60005260206000f3'])
    await stack.anvil.setCode({ address: GAS_PRICE_ORACLE, bytecode })
    const { failures } = await runAnchorCycle(ports)
    expect(failures[0]?.error).toMatch(new RegExp(`holds ${balanceWei} wei, .* up to 200\\d+ wei`))
    await stack.anvil.setCode({ address: GAS_PRICE_ORACLE, bytecode: '0x' })
    await runAnchorCycle(ports)
    await expectAnchoredOnce(records)
  })
})

describe('the DA layer', () => {
  const unreachable = createDaClient({ url: NOWHERE, timeoutMs: 1_000, sleep: async () => {} })

  it('is waited for while it cannot be reached, and given up after the patience has run out', async () => {
    await runAnchorCycle({ ...ports, da: unreachable })
    expect(await newestBatch()).toMatchObject({
      state: 'archived',
      lastError: expect.stringContaining('cannot be reached'),
    })
    const later = ports.nowMs() + ports.limits.daPatienceMs
    await runAnchorCycle({ ...ports, da: unreachable, nowMs: () => later })
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', daKind: 'none' })
    await expectAnchoredOnce(records)
  })

  it('is passed over at once when the proxy says so', async () => {
    await patchDa({ PutReturnsFailoverError: true })
    const { steps } = await runAnchorCycle(ports)
    await patchDa({ PutReturnsFailoverError: false })
    expect(steps.find(({ action }) => action.startsWith('post'))?.note).toContain('archive alone')
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', daCommitment: null })
  })

  it('counts as posted to only when it gives the payload back', async () => {
    const forgetful: DaClient = {
      ...(ports.da as DaClient),
      get: async () => ({ outcome: 'found', payload: Uint8Array.of(1) }),
    }
    await runAnchorCycle({ ...ports, da: forgetful })
    expect(await newestBatch()).toMatchObject({
      state: 'archived',
      lastError: 'the DA proxy gives back other bytes than were put',
    })
    await runAnchorCycle(ports)
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', daKind: 'eigenda' })
  })
})

describe('the chain', () => {
  it('gets a dearer transaction in place of one that is pending for too long', async () => {
    await stack.anvil.setAutomine(false)
    await runAnchorCycle(ports)
    const first = await newestBatch()
    expect(first).toMatchObject({ state: 'submitted' })
    const waiting = await runAnchorCycle(ports)
    expect(waiting).toMatchObject({ steps: [], failures: [] })
    expect((await newestBatch())?.txHash).toBe(first?.txHash)

    const later = ports.nowMs() + ports.limits.pendingTooLongMs
    await runAnchorCycle({ ...ports, nowMs: () => later })
    const second = await newestBatch()
    const [old, next] = await Promise.all([
      ports.chain.readTransaction(first!.txHash!),
      stack.anvil.getTransaction({ hash: second!.txHash! }),
    ])
    expect(old.outcome).toBe('unknown')
    expect(next.blockHash).toBeNull()

    await stack.anvil.mine({ blocks: 1 })
    await stack.anvil.setAutomine(true)
    await runAnchorCycle(ports)
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', txHash: second?.txHash })
    await expectAnchoredOnce(records)
  })

  it('gets a transaction through that a forgotten one of the same nonce stands in the way of', async () => {
    await stack.anvil.setAutomine(false)
    const { address } = privateKeyToAccount(LOCAL_DEV_KEY)
    const fees = { maxFeePerGas: parseGwei('5'), maxPriorityFeePerGas: parseGwei('5') }
    await stack.anvil.sendUnsignedTransaction({ from: address, to: address, gas: 21_000n, ...fees })
    const report = await runAnchorCycle(ports)
    expect(report.failures).toEqual([])
    await stack.anvil.mine({ blocks: 1 })
    await stack.anvil.setAutomine(true)
    await runAnchorCycle(ports)
    await expectAnchoredOnce(records)
  })

  it('is asked first: a batch that got there unnoticed is found, not sent again', async () => {
    await runAnchorCycle(ports)
    const batch = await newestBatch()
    await stack.database
      .prepare("UPDATE batches SET state = 'da_posted', tx_hash = NULL WHERE id = ?")
      .bind(batch?.id)
      .run()
    await runAnchorCycle(ports)
    expect(await newestBatch()).toMatchObject({ state: 'confirmed', txHash: batch?.txHash })
    await expectAnchoredOnce(records)
  })

  it('may take an anchor back: the batch is sent again, and is pending until then', async () => {
    await runAnchorCycle(ports)
    const before = await newestBatch()
    await stack.anvil.request({
      method: 'anvil_reorg',
      params: [1, []],
    } as never)
    await stack.anvil.setAutomine(false)
    await runAnchorCycle(ports)
    expect(await newestBatch()).toMatchObject({ state: 'submitted', blockNumber: null })
    await stack.anvil.mine({ blocks: 1 })
    await stack.anvil.setAutomine(true)
    await runAnchorCycle(ports)
    const after = await newestBatch()
    expect(after).toMatchObject({ state: 'confirmed', id: before?.id })
    await expectAnchoredOnce(records)
  })

  it('makes a batch final by its finalized block', async () => {
    await runAnchorCycle(ports)
    await stack.anvil.mine({ blocks: 70 })
    await runAnchorCycle(ports)
    expect(await newestBatch()).toMatchObject({ state: 'final' })
  })

  it('is given all batches again, in order, when it begins anew', async () => {
    await runAnchorCycle(ports)
    const { usageAnchor } = await deployContracts({
      ...{ rpcUrl: stack.rpcUrl, privateKey: LOCAL_DEV_KEY, usageAnchor: null },
      stateDir: `${stack.stateDir}/da`,
    })
    expect(usageAnchor).not.toBe(stack.usageAnchor)
    stack = { ...stack, usageAnchor }
    for (let cycle = 0; cycle < 5; cycle++) await runAnchorCycle(createPorts(stack))
    expect(
      (await stack.store.listBatches(100)).every(({ contract }) => contract === usageAnchor),
    ).toBe(true)
    await expectAnchoredOnce(records)
  })

  it('that holds another batch under the id is another ledger: nothing is sent', async () => {
    const batch = await newestBatch()
    const foreign = { root: `0x${'9'.repeat(64)}`, payloadHash: `0x${'8'.repeat(64)}` } as const
    const id = (batch?.id ?? 0) + 1
    const next = { ...batch!, ...foreign, id }
    await ports.chain.broadcast((await ports.chain.sign(next, null)).raw)
    const { failures } = await runAnchorCycle(ports)
    expect(failures[0]?.error).toContain('belongs to another ledger')
    expect(await newestBatch()).toMatchObject({ id, state: 'da_posted' })
  })
})

async function newestBatch() {
  const [batch] = await stack.store.listBatches(1)
  return batch
}

async function patchDa(config: object): Promise<void> {
  const url = `${stack.da.url}/memstore/config`
  await fetch(url, { method: 'PATCH', body: JSON.stringify(config) })
}

/** Reads the chain and the archive, as an outsider would, and looks for each record. */
async function expectAnchoredOnce(expected: readonly UsageRecord[]): Promise<void> {
  const events = await stack.anvil.getContractEvents({
    ...{ address: stack.usageAnchor, abi: usageAnchorAbi, eventName: 'BatchAnchored' },
    ...{ fromBlock: 0n, toBlock: 'latest' },
  })
  expect(events.map(({ args }) => args.batchId)).toEqual(
    events.map((_, index) => BigInt(index + 1)),
  )
  const anchored = new Map<string, number>()
  for (const { args } of events) {
    const payload = await stack.archive.get(args.payloadHash!)
    const decoded = decodeBatchPayload(payload ?? hexToBytes('0x'))
    if (decoded.outcome === 'malformed') throw new Error(decoded.reason)
    for (const { leaf } of decoded.entries) {
      anchored.set(leaf.requestId, (anchored.get(leaf.requestId) ?? 0) + 1)
    }
  }
  expect(expected.map(({ requestId }) => anchored.get(requestId))).toEqual(expected.map(() => 1))
  expect([...anchored.values()].every((count) => count === 1)).toBe(true)
}

/** Ports of a process that ends once the named write is done: nothing works after it. */
function dieAfter(write: string, alive: CyclePorts): CyclePorts {
  let isDead = false
  const mortal = <Port extends object>(port: Port, rename: (name: string) => string): Port =>
    new Proxy(port, {
      get: (target, name: string) => {
        const method = Reflect.get(target, name, target) as (...args: unknown[]) => Promise<unknown>
        return async (...args: unknown[]) => {
          if (isDead) throw new Error('dead')
          const result = await method.apply(target, args)
          if (rename(name) === write) isDead = true
          if (isDead) throw new Error('dead')
          return result
        }
      },
    })
  const same = (name: string) => name
  return {
    ...alive,
    store: mortal(alive.store, same),
    archive: mortal(alive.archive, same),
    da: alive.da && mortal(alive.da, (name) => (name === 'put' ? 'daPut' : name)),
    chain: mortal(alive.chain, same),
  }
}
