import { join } from 'node:path'
import { createPublicClient, http } from 'viem'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { usageAnchorAbi } from '../../protocol/usage-anchor-abi.ts'
import { deployContracts, LOCAL_DEV_KEY } from '../../scripts/deploy-contracts.ts'
import { LOCAL_CHAIN_ID, type LocalChain, startLocalChain } from '../../scripts/local-chain.ts'
import { createTemporaryFolder, type TemporaryFolder } from '../support/temporary-folder.ts'

let folder: TemporaryFolder
let chain: LocalChain

const start = async (name: string) => {
  chain = await startLocalChain({ port: 0, stateDir: join(folder.path, name) })
}

const deploy = (usageAnchor: string | null = null) =>
  deployContracts({
    ...{ rpcUrl: chain.rpcUrl, privateKey: LOCAL_DEV_KEY },
    ...{ stateDir: folder.path, usageAnchor },
  })

beforeEach(async () => {
  folder = await createTemporaryFolder()
  await start('chain')
})

afterEach(async () => {
  await chain.close()
  await folder.remove()
})

it('keeps contracts, transactions and events over a restart, and deploys no second time', async () => {
  const { usageAnchor } = await deploy()
  const readEvents = () =>
    createPublicClient({ transport: http(chain.rpcUrl) }).getContractEvents({
      ...{ address: usageAnchor, abi: usageAnchorAbi, eventName: 'RoleGranted', fromBlock: 0n },
    })
  const before = await readEvents()
  expect(before).toHaveLength(2)
  await chain.close()
  await start('chain')
  expect(await readEvents()).toEqual(before)
  expect(await deploy()).toEqual({ usageAnchor })
  const client = createPublicClient({ transport: http(chain.rpcUrl) })
  expect(await client.getTransactionReceipt({ hash: before[0]!.transactionHash })).toBeDefined()
  expect(await client.getChainId()).toBe(LOCAL_CHAIN_ID)
})

it('deploys anew where the chain began anew', async () => {
  const { usageAnchor } = await deploy()
  await chain.close()
  await start('another-chain')
  expect(await deploy()).toEqual({ usageAnchor })
  const client = createPublicClient({ transport: http(chain.rpcUrl) })
  expect(await client.getCode({ address: usageAnchor })).toBeDefined()
})

it('takes a named contract only if it is one that the account may use', async () => {
  const { usageAnchor } = await deploy()
  expect(await deploy(usageAnchor)).toEqual({ usageAnchor })
  // The CREATE2 deployer, which every chain has.
  const other = '0x4e59b44847b379578588920ca78fbf26c0b4956c'
  await expect(deploy(other)).rejects.toThrow(`${other} is no UsageAnchor on chain 1612`)
})

it('says what is wrong with a chain that does not answer, and with a port that is taken', async () => {
  const port = Number(new URL(chain.rpcUrl).port)
  await expect(startLocalChain({ port, stateDir: join(folder.path, 'b') })).rejects.toThrow(
    `The local chain did not start on port ${port}: Error: Address already in use`,
  )
  await chain.close()
  await expect(deploy()).rejects.toThrow(`The chain at ${chain.rpcUrl} does not answer.`)
})
