import { execFile } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { AnchoredReceipt } from '../../protocol/receipt.ts'
import {
  type VerifyOptions,
  type VerifyStep,
  verifyReceipt,
} from '../../protocol/verify-receipt.ts'
import {
  createArchiveSource,
  createChainSource,
  createDaSource,
} from '../../scripts/verify-sources.ts'
import { runAnchorCycle } from '../../worker/proofs/anchor-cycle.ts'
import { buildReceipt } from '../../worker/proofs/receipt.ts'
import { createPorts, type ProofStack, startProofStack } from '../support/proof-stack.ts'
import { ACCOUNT_SALT, createRecord, insertRecords } from '../support/usage-records.ts'

const NOWHERE = 'http://127.0.0.1:9'

let stack: ProofStack
let receipt: AnchoredReceipt
let options: VerifyOptions
let archiveDir: string

beforeAll(async () => {
  stack = await startProofStack()
  const records = Array.from({ length: 5 }, () => createRecord())
  await insertRecords(stack.database, records)
  await runAnchorCycle(createPorts(stack))
  receipt = (await fetchReceipt(records[1]!.requestId)) as AnchoredReceipt
  options = {
    chain: createChainSource(stack.rpcUrl),
    payloadSources: [createDaSource(stack.da.url)],
    contract: null,
  }
  archiveDir = join(stack.stateDir, 'archive')
  await mkdir(archiveDir)
  const payload = await stack.archive.get(receipt.batch.payloadHash)
  await writeFile(join(archiveDir, receipt.batch.payloadHash), payload!)
})

afterAll(() => stack.close())

describe('verifyReceipt', () => {
  it('passes a true receipt, every step of it', async () => {
    const results = await verifyReceipt(receipt, options)
    expect(results.map(({ outcome }) => outcome)).toEqual(results.map(() => 'passed'))
    expect(results).toHaveLength(11)
  })

  it('fails, naming the step, when any one value is changed', async () => {
    const values = listValues(receipt)
    expect(values.length).toBeGreaterThan(50)
    for (const path of values) {
      const forged = edit(receipt, path, (parent, key) => {
        parent[key] = change(parent[key])
      })
      expect([path.join('.'), await failedStep(forged)]).toEqual([path.join('.'), stepOf(path)])
    }
  })

  it('fails when any one field is missing, or one is added', async () => {
    for (const path of listFields(receipt)) {
      const cut = edit(receipt, path, (parent, key) => {
        if (Array.isArray(parent)) parent.splice(Number(key), 1)
        else delete parent[key]
      })
      expect([path.join('.'), await failedStep(cut)]).not.toEqual([path.join('.'), null])
      const grown = edit(receipt, path, (parent) => {
        parent.extra = 1
      })
      if (!Array.isArray(at(receipt, path.slice(0, -1)))) {
        expect([path.join('.'), await failedStep(grown)]).toEqual([path.join('.'), 'schema'])
      }
    }
  })

  it('fails when the order of siblings or of credits is another', async () => {
    const { proof } = receipt.batch
    const swapped = { ...receipt.batch, proof: [proof[1]!, proof[0]!, ...proof.slice(2)] }
    expect(await failedStep({ ...receipt, batch: swapped })).toBe('proof')
    expect(await failedStep({ ...receipt, credits: receipt.credits.toReversed() })).toBe('credits')
  })

  it('fails for a payload that is said to be in the archive when it was posted', async () => {
    expect(await failedStep({ ...receipt, da: { kind: 'none' } })).toBe('anchor')
  })

  it('fails for a credit list that commits to itself but not to the rule', async () => {
    const record = createRecord()
    const [first, second, ...others] = record.credits
    const moved = [
      { ...first!, amountMicroUsd: first!.amountMicroUsd + 1 },
      { ...second!, amountMicroUsd: second!.amountMicroUsd - 1 },
    ]
    const forged = buildReceipt({
      record: { ...record, credits: [...moved, ...others] },
      ...{ accountSalt: ACCOUNT_SALT, batch: null },
    })
    expect(await failedStep(forged)).toBe('split')
  })

  it('says that a pending receipt is not on chain', async () => {
    const record = createRecord()
    const pending = buildReceipt({ record, accountSalt: ACCOUNT_SALT, batch: null })
    expect(pending.state).toBe('pending')
    expect((await verifyReceipt(pending, options)).at(-1)).toMatchObject({
      step: 'proof',
      detail: expect.stringContaining('pending'),
    })
  })

  it('fails where the contract is not the one that is known to be the operator’s', async () => {
    const contract = `0x${'9'.repeat(40)}`
    expect(await failedStep(receipt, { ...options, contract })).toBe('anchor')
  })

  it('fails where the chain or every source of the payload is out of reach, and says which', async () => {
    const noChain = { ...options, chain: createChainSource(NOWHERE) }
    expect((await verifyReceipt(receipt, noChain)).at(-1)).toMatchObject({
      step: 'chain',
      detail: expect.stringContaining('the chain does not answer'),
    })
    const payloadSources = [createDaSource(NOWHERE), createArchiveSource('/nowhere')]
    const last = (await verifyReceipt(receipt, { ...options, payloadSources })).at(-1)
    expect(last?.step).toBe('payload')
    expect(last?.detail).toContain(NOWHERE)
    expect(last?.detail).toContain('/nowhere')
  })

  it('takes the payload from the archive where the DA layer has lost it, by its keccak256', async () => {
    const payloadSources = [createDaSource(NOWHERE), createArchiveSource(archiveDir)]
    expect(await failedStep(receipt, { ...options, payloadSources })).toBeNull()
    const name = join(archiveDir, 'tampered')
    await mkdir(name)
    await writeFile(join(name, receipt.batch.payloadHash), 'other bytes')
    const tampered = { ...options, payloadSources: [createArchiveSource(name)] }
    expect(await failedStep(receipt, tampered)).toBe('payload')
  })

  it('passes a final receipt of a final block, and one from before it was final', async () => {
    await stack.anvil.mine({ blocks: 70 })
    await runAnchorCycle(createPorts(stack))
    const final = await fetchReceipt(receipt.leaf.requestId)
    expect(final.state).toBe('final')
    expect(await failedStep(final)).toBeNull()
    expect(await failedStep(receipt)).toBeNull()
  })
})

describe('npm run verify', () => {
  it('prints the steps and ends with 0 for a true receipt', async () => {
    const { code, stdout } = await verify(receipt, ['--rpc', stack.rpcUrl, '--da', stack.da.url])
    expect(stdout.match(/^✓/gm)).toHaveLength(11)
    expect(stdout).toContain('The receipt is true.')
    expect(code).toBe(0)
  })

  it('ends with 1 and names the step for a forged one', async () => {
    const forged = { ...receipt, leaf: { ...receipt.leaf, promptTokens: 1 } }
    const args = ['--rpc', stack.rpcUrl, '--da', stack.da.url, '--json']
    const { code, stdout } = await verify(forged, args)
    expect(JSON.parse(stdout)).toMatchObject({ ok: false, failedStep: 'proof' })
    expect(code).toBe(1)
  })

  it('fails without a source of the payload, unless that is left out in so many words', async () => {
    const without = await verify(receipt, ['--rpc', stack.rpcUrl])
    expect(without.stdout).toContain('FAILED at step "payload"')
    expect(without.code).toBe(1)
    const skipped = await verify(receipt, ['--rpc', stack.rpcUrl, '--skip', 'payload'])
    expect(skipped.stdout).toContain('NOT checked: payload, payload-leaf.')
    expect(skipped.code).toBe(0)
  })

  it('says what is wrong with its arguments', async () => {
    const { code, stderr } = await verify(receipt, ['--skip', 'everything'])
    expect(stderr).toContain('--skip takes "chain" or "payload", not "everything".')
    expect(code).toBe(2)
  })
})

async function fetchReceipt(requestId: string) {
  const found = await stack.store.findRecord(requestId)
  const row = found!.batch!
  const batch = { row, leafHashes: await stack.store.listLeafHashes(row.id) }
  const built = buildReceipt({ record: found!.record, accountSalt: ACCOUNT_SALT, batch })
  return JSON.parse(JSON.stringify(built)) as typeof built
}

async function failedStep(candidate: unknown, how = options): Promise<VerifyStep | null> {
  const last = (await verifyReceipt(candidate, how)).at(-1)
  return last?.outcome === 'failed' ? last.step : null
}

/** The first step that can notice a changed value. */
function stepOf([part, field]: readonly string[]): VerifyStep {
  const name = `${part}.${field}`
  if (part === 'version' || name === 'leaf.version' || name === 'da.kind') return 'schema'
  if (part === 'credits' || name === 'leaf.creditsHash') return 'credits'
  if (part === 'account' || name === 'leaf.accountCommitment') return 'account'
  if (part === 'content' || name === 'leaf.contentCommitment') return 'content'
  if (name === 'leaf.feeMicroUsd') return 'split'
  if (part === 'leaf' || name === 'batch.root' || name === 'batch.proof') return 'proof'
  if (name === 'batch.leafIndex') return 'payload-leaf'
  if (name === 'anchor.chainId') return 'chain'
  return part === 'state' ? 'state' : 'anchor'
}

function change(value: unknown): unknown {
  if (typeof value === 'number') return value === 1 ? 2 : value - 1
  if (value === 'anchored') return 'final'
  if (value === 'platform') return 'backend'
  if (CREDIT_ROLE_NAMES.includes(String(value))) return 'platform'
  if (value === 'eigenda') return 'celestia'
  const text = String(value)
  return text.slice(0, -1) + (text.endsWith('0') ? '1' : '0')
}

const CREDIT_ROLE_NAMES = ['backend', 'model_owner', 'adapter_owner', 'contributor']

function listFields(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, child]) => [
    [...path, key],
    ...listFields(child, [...path, key]),
  ])
}

function listValues(value: unknown): string[][] {
  return listFields(value).filter((path) => typeof at(value, path) !== 'object')
}

function at(value: unknown, path: readonly string[]): unknown {
  return path.reduce((node, key) => (node as Record<string, unknown>)[key], value)
}

function edit(
  value: unknown,
  path: readonly string[],
  change: (parent: Record<string, unknown>, key: string) => void,
): unknown {
  const copy = structuredClone(value)
  change(at(copy, path.slice(0, -1)) as Record<string, unknown>, path.at(-1)!)
  return copy
}

async function verify(candidate: unknown, args: readonly string[]) {
  const path = join(stack.stateDir, 'receipt.json')
  await writeFile(path, JSON.stringify(candidate))
  const script = join(import.meta.dirname, '../../scripts/verify.ts')
  return new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    const child = execFile(process.execPath, [script, path, ...args], (_error, stdout, stderr) =>
      resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    )
  })
}
