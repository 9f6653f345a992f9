import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  ContractFunctionExecutionError,
  createPublicClient,
  createWalletClient,
  defineChain,
  type Hex,
  http,
} from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { z } from 'zod'
import artifact from '../contracts/artifacts/UsageAnchor.json' with { type: 'json' }
import { type Address, addressSchema } from '../protocol/digest.ts'
import { usageAnchorAbi } from '../protocol/usage-anchor-abi.ts'

/** The first of anvil's published accounts. Everybody knows it: refused on every other chain. */
export const LOCAL_DEV_KEY = '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80'

const deploymentSchema = z.object({ chainId: z.int(), usageAnchor: addressSchema })

export interface DeployOptions {
  readonly rpcUrl: string
  /** Pays for the deployment, administers the contract and anchors. */
  readonly privateKey: string
  /** Where the addresses are kept from one start to the next. */
  readonly stateDir: string
  /** A contract that exists already; null: the one of the last start, else a new one. */
  readonly usageAnchor: string | null
}

export interface Contracts {
  readonly usageAnchor: Address
}

/**
 * Deploys what is not there yet. A contract counts as there when it answers as a UsageAnchor and
 * lets the key's account anchor; a named one that does not is an error, a remembered one is
 * replaced (the chain began anew).
 */
export async function deployContracts(options: DeployOptions): Promise<Contracts> {
  const account = parsePrivateKey(options.privateKey)
  const { chainId, version } = await readChain(options.rpcUrl)
  if (options.privateKey === LOCAL_DEV_KEY && !version.startsWith('anvil/')) {
    throw new Error(
      `${options.rpcUrl} (${version}) is no local chain: set ANCHOR_PRIVATE_KEY to a key of yours.`,
    )
  }
  if (options.usageAnchor !== null) {
    const usageAnchor = addressSchema.parse(options.usageAnchor.toLowerCase())
    if (await mayAnchor(options.rpcUrl, usageAnchor, account.address)) return { usageAnchor }
    throw new Error(
      `${usageAnchor} is no UsageAnchor on chain ${chainId} that lets ${account.address} anchor.`,
    )
  }
  const path = join(options.stateDir, 'contracts.json')
  const known = await readDeployment(path)
  if (
    known?.chainId === chainId &&
    (await mayAnchor(options.rpcUrl, known.usageAnchor, account.address))
  ) {
    return { usageAnchor: known.usageAnchor }
  }
  const usageAnchor = await deploy(options.rpcUrl, account, chainId)
  await writeFile(`${path}.tmp`, JSON.stringify({ chainId, usageAnchor }, null, 2))
  await rename(`${path}.tmp`, path)
  return { usageAnchor }
}

function parsePrivateKey(privateKey: string) {
  if (!/^0x[0-9a-f]{64}$/i.test(privateKey)) {
    throw new Error('ANCHOR_PRIVATE_KEY must be 0x and 64 hex digits.')
  }
  return privateKeyToAccount(privateKey as Hex) // the regex proves the template type
}

async function readChain(rpcUrl: string): Promise<{ chainId: number; version: string }> {
  const client = createPublicClient({ transport: http(rpcUrl) })
  try {
    const version = await client.request<{
      Method: 'web3_clientVersion'
      Parameters?: undefined
      ReturnType: string
    }>({ method: 'web3_clientVersion' })
    return { chainId: await client.getChainId(), version }
  } catch (error) {
    throw new Error(`The chain at ${rpcUrl} does not answer.`, { cause: error })
  }
}

async function mayAnchor(rpcUrl: string, address: Address, account: Address): Promise<boolean> {
  const client = createPublicClient({ transport: http(rpcUrl) })
  const contract = { address, abi: usageAnchorAbi } as const
  if ((await client.getCode({ address })) === undefined) return false
  try {
    const role = await client.readContract({ ...contract, functionName: 'ANCHORER_ROLE' })
    return await client.readContract({
      ...contract,
      functionName: 'hasRole',
      args: [role, account],
    })
  } catch (error) {
    // Some other contract lives there.
    if (error instanceof ContractFunctionExecutionError) return false
    throw error
  }
}

async function deploy(
  rpcUrl: string,
  account: ReturnType<typeof privateKeyToAccount>,
  chainId: number,
): Promise<Address> {
  const chain = defineChain({
    id: chainId,
    name: `chain ${chainId}`,
    nativeCurrency: { name: 'native', symbol: 'NATIVE', decimals: 18 },
    rpcUrls: { default: { http: [rpcUrl] } },
  })
  const wallet = createWalletClient({ account, chain, transport: http(rpcUrl) })
  const reader = createPublicClient({ chain, transport: http(rpcUrl) })
  const hash = await wallet.deployContract({
    abi: artifact.abi,
    bytecode: artifact.bytecode as Hex, // written by compile-contracts.ts
    args: [account.address, account.address],
  })
  const receipt = await reader.waitForTransactionReceipt({ hash, pollingInterval: 50 })
  if (receipt.status !== 'success' || !receipt.contractAddress) {
    throw new Error(`The deployment ${hash} on chain ${chainId} was reverted.`)
  }
  return addressSchema.parse(receipt.contractAddress.toLowerCase())
}

async function readDeployment(path: string) {
  const text = await readFile(path, 'utf8').catch(() => null)
  return text === null ? null : deploymentSchema.parse(JSON.parse(text))
}
