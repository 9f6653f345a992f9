import { readFile } from 'node:fs/promises'
import { SimpleMerkleTree } from '@openzeppelin/merkle-tree'
import {
  type Address,
  BaseError,
  ContractFunctionRevertedError,
  createTestClient,
  encodeFunctionData,
  type Hex,
  http,
  keccak256,
  publicActions,
  walletActions,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { buildMerkleTree, proveLeaf } from '../../protocol/merkle-tree.ts'
import { usageAnchorAbi } from '../../protocol/usage-anchor-abi.ts'
import { compileContracts } from '../../scripts/compile-contracts.ts'
import { deployContracts, LOCAL_DEV_KEY } from '../../scripts/deploy-contracts.ts'
import { type LocalChain, startLocalChain } from '../../scripts/local-chain.ts'
import { createTemporaryFolder, type TemporaryFolder } from '../support/temporary-folder.ts'

const account = privateKeyToAccount(LOCAL_DEV_KEY)
const leaves = Array.from({ length: 1_000 }, (_, index) =>
  keccak256(`0x${index.toString(16).padStart(4, '0')}`),
)
const tree = buildMerkleTree(leaves)
const payloadHash = keccak256('0x01')
/** As long as an EigenDA commitment. */
const commitment: Hex = `0x03${'ab'.repeat(415)}`

let folder: TemporaryFolder
let chain: LocalChain
let contract: { readonly address: Address; readonly abi: typeof usageAnchorAbi }
let client: ReturnType<typeof createClient>

beforeAll(async () => {
  folder = await createTemporaryFolder()
  chain = await startLocalChain({ port: 0, stateDir: folder.path })
  client = createClient(chain.rpcUrl)
  const { usageAnchor } = await deployContracts({
    ...{ rpcUrl: chain.rpcUrl, privateKey: LOCAL_DEV_KEY },
    ...{ stateDir: folder.path, usageAnchor: null },
  })
  contract = { address: usageAnchor, abi: usageAnchorAbi }
})

afterAll(async () => {
  await chain.close()
  await folder.remove()
})

it('is what the committed artifact and ABI were made from', async () => {
  for (const [path, text] of compileContracts()) expect(await readFile(path, 'utf8')).toBe(text)
})

describe('anchor', () => {
  it('takes batches in order, each once, and says all of it in an event', async () => {
    const [first, second] = [await anchor(1n), await anchor(2n)]
    expect(await client.readContract({ ...contract, functionName: 'batchCount' })).toBe(2n)
    const events = await client.getContractEvents({
      ...contract,
      ...{ eventName: 'BatchAnchored', fromBlock: 0n },
    })
    expect(events.map(({ args, transactionHash }) => [args, transactionHash])).toEqual(
      [first, second].map((receipt, index) => [
        {
          ...{ batchId: BigInt(index + 1), root: tree.root, leafCount: 1_000 },
          ...{ payloadHash, daCommitment: commitment },
        },
        receipt.transactionHash,
      ]),
    )
    for (const batchId of [0n, 1n, 2n, 4n]) {
      expect(await revertOf(anchor(batchId))).toBe(`BatchOutOfOrder(3,${batchId})`)
    }
  })

  it('costs what the documentation says', async () => {
    const gas = {
      'anchor, 416 bytes of DA commitment': (await anchor(3n)).gasUsed,
      'anchor, archive alone': (await anchor(4n, { daCommitment: '0x' })).gasUsed,
    }
    expect(gas).toMatchInlineSnapshot(`
      {
        "anchor, 416 bytes of DA commitment": 66179n,
        "anchor, archive alone": 56093n,
      }
    `)
  })

  it('refuses a batch of nothing', async () => {
    const empty = {
      root: `0x${'0'.repeat(64)}`,
      payloadHash: `0x${'0'.repeat(64)}`,
      leafCount: 0,
    } as const
    for (const [name, value] of Object.entries(empty)) {
      expect(await revertOf(anchor(5n, { [name]: value }))).toBe('EmptyBatch()')
    }
  })

  it('is for the anchorer role alone', async () => {
    const stranger = '0x70997970C51812dc3A010C7d01b50e0d17dc79C8'
    const role = await client.readContract({ ...contract, functionName: 'ANCHORER_ROLE' })
    expect(await revertOf(anchor(5n, {}, stranger))).toBe(
      `AccessControlUnauthorizedAccount(${stranger},${role})`,
    )
  })
})

describe('verify', () => {
  const verify = (batchId: bigint, leaf: Hex, proof: readonly Hex[]) =>
    client.readContract({ ...contract, functionName: 'verify', args: [batchId, leaf, proof] })

  it('accepts our proofs and OpenZeppelin’s, and no others', async () => {
    const proof = proveLeaf(tree, 7)
    expect(await verify(1n, leaves[7]!, proof)).toBe(true)
    expect(await verify(1n, leaves[7]!, SimpleMerkleTree.of(leaves).getProof(7) as Hex[])).toBe(
      true,
    )
    expect(await verify(1n, leaves[8]!, proof)).toBe(false)
    expect(await verify(1n, leaves[7]!, proof.slice(1))).toBe(false)
  })

  it('knows no batch that was not anchored', async () => {
    expect(await revertOf(verify(99n, leaves[7]!, []))).toBe('UnknownBatch(99)')
  })

  it('costs what the documentation says', async () => {
    const args = [1n, leaves[7]!, proveLeaf(tree, 7)] as const
    const data = encodeFunctionData({ ...contract, functionName: 'verify', args })
    const gas = await client.estimateGas({ to: contract.address, data })
    expect(gas).toMatchInlineSnapshot(`36290n`)
  })
})

function createClient(rpcUrl: string) {
  return createTestClient({ mode: 'anvil', account, transport: http(rpcUrl), cacheTime: 0 })
    .extend(publicActions)
    .extend(walletActions)
}

async function anchor(
  batchId: bigint,
  changes: { root?: Hex; leafCount?: number; payloadHash?: Hex; daCommitment?: Hex } = {},
  from: Address | typeof account = account,
) {
  const batch = {
    root: tree.root,
    leafCount: 1_000,
    payloadHash,
    daCommitment: commitment,
    ...changes,
  }
  const { request } = await client.simulateContract({
    ...{ ...contract, functionName: 'anchor', account: from },
    args: [batchId, batch.root, batch.leafCount, batch.payloadHash, batch.daCommitment],
  })
  const hash = await client.writeContract({ ...request, chain: null })
  return client.waitForTransactionReceipt({ hash, pollingInterval: 20 })
}

/** The contract's error as it would be written. */
async function revertOf(call: Promise<unknown>): Promise<string> {
  const error = await call.then(
    () => null,
    (reason: unknown) => reason,
  )
  const revert =
    error instanceof BaseError &&
    error.walk((cause) => cause instanceof ContractFunctionRevertedError)
  if (!(revert instanceof ContractFunctionRevertedError)) throw error ?? new Error('no revert')
  return `${revert.data?.errorName}(${(revert.data?.args ?? []).join(',')})`
}
