import {
  createPublicClient,
  encodeFunctionData,
  type Hex,
  http,
  keccak256,
  type Log,
  type PublicClient,
  parseEventLogs,
  TransactionNotFoundError,
  TransactionReceiptNotFoundError,
} from 'viem'
import { type PrivateKeyAccount, privateKeyToAccount } from 'viem/accounts'
import { estimateL1Fee } from 'viem/op-stack'
import type { Address, Digest } from '../../protocol/digest.ts'
import { usageAnchorAbi } from '../../protocol/usage-anchor-abi.ts'
import type { AnchorPlace, Batch } from './batch-store.ts'
import { type FeesPerGas, planFees } from './plan-fees.ts'

export interface AnchorClientOptions {
  readonly rpcUrl: string
  readonly contract: Address
  /** Holds the contract's anchorer role, and pays. Nothing else may send transactions with it. */
  readonly privateKey: Hex
}

export interface ChainHead {
  /** The last batch that the contract has. */
  readonly batchCount: number
  /** Null where the chain names no finalized block. */
  readonly finalizedBlockNumber: number | null
}

export type AnchorLookup =
  | { readonly outcome: 'anchored'; readonly place: AnchorPlace }
  | { readonly outcome: 'absent' }

export type TransactionLookup =
  | { readonly outcome: 'pending'; readonly fees: FeesPerGas }
  /** In a block, successful or not. */
  | { readonly outcome: 'mined' }
  | { readonly outcome: 'unknown' }

export interface SignedAnchor {
  readonly txHash: Digest
  readonly raw: Hex
  readonly fees: FeesPerGas
}

export type AnchorClient = Pick<
  UsageAnchorClient,
  'readHead' | 'findAnchor' | 'readTransaction' | 'sign' | 'broadcast'
>

/** Blocks a public RPC lets `eth_getLogs` search at once, and how often it is asked. */
const LOG_PAGE_BLOCKS = 1_000n
const MAX_LOG_PAGES = 200

const RPC_TIMEOUT_MS = 15_000

/**
 * The UsageAnchor contract, over JSON-RPC. One transaction is in flight at a time, so its nonce is
 * always the account's count of mined ones: a gap can never arise. Rejects with viem's errors.
 */
export class UsageAnchorClient {
  readonly #client: PublicClient
  readonly #account: PrivateKeyAccount
  readonly #contract: { readonly address: Address; readonly abi: typeof usageAnchorAbi }

  constructor({ rpcUrl, contract, privateKey }: AnchorClientOptions) {
    const transport = http(rpcUrl, {
      retryCount: 0,
      timeout: RPC_TIMEOUT_MS,
      fetchOptions: { redirect: 'manual' },
    })
    this.#client = createPublicClient({ transport, cacheTime: 0 })
    this.#account = privateKeyToAccount(privateKey)
    this.#contract = { address: contract, abi: usageAnchorAbi }
  }

  async readHead(): Promise<ChainHead> {
    const finalized = await this.#client.getBlock({ blockTag: 'finalized' }).catch(() => null)
    return {
      batchCount: await this.#readBatchCount(),
      finalizedBlockNumber: finalized === null ? null : Number(finalized.number),
    }
  }

  /**
   * Where the contract has the batch, whoever's transaction brought it there. Throws when the
   * contract has another batch under its id. Searches the log from `sinceBlockNumber` on when the
   * batch's own transaction was not the one.
   */
  async findAnchor(batch: Batch, sinceBlockNumber: number): Promise<AnchorLookup> {
    if ((await this.#readBatchCount()) < batch.id) return { outcome: 'absent' }
    const event =
      (await this.#findEventIn(batch, batch.txHash)) ??
      (await this.#searchEvent(batch, BigInt(sinceBlockNumber)))
    const { root, leafCount, payloadHash, daCommitment } = event.args
    const isOurs =
      root === batch.root &&
      leafCount === batch.leafCount &&
      payloadHash === batch.payloadHash &&
      daCommitment === (batch.daCommitment ?? '0x')
    if (!isOurs) {
      throw new Error(
        `Contract ${this.#contract.address} has another batch ${batch.id}: it belongs to another ledger.`,
      )
    }
    const place = {
      chainId: await this.#client.getChainId(),
      contract: this.#contract.address,
      txHash: event.transactionHash,
      blockNumber: Number(event.blockNumber),
    }
    return { outcome: 'anchored', place }
  }

  async readTransaction(txHash: Digest): Promise<TransactionLookup> {
    try {
      const tx = await this.#client.getTransaction({ hash: txHash })
      if (tx.blockHash !== null) return { outcome: 'mined' }
      const maxFeePerGasWei = tx.maxFeePerGas ?? tx.gasPrice ?? 0n
      const maxPriorityFeePerGasWei = tx.maxPriorityFeePerGas ?? maxFeePerGasWei
      return { outcome: 'pending', fees: { maxFeePerGasWei, maxPriorityFeePerGasWei } }
    } catch (error) {
      if (error instanceof TransactionNotFoundError) return { outcome: 'unknown' }
      throw error
    }
  }

  /**
   * The transaction that anchors the batch, not sent yet. With `replaced`, one that takes the place
   * of a pending one with these fees. Throws with the contract's reason where it would revert, and
   * with both amounts where the account cannot pay for it.
   */
  async sign(batch: Batch, replaced: FeesPerGas | null): Promise<SignedAnchor> {
    const { address, abi } = this.#contract
    const args = [
      BigInt(batch.id),
      batch.root,
      batch.leafCount,
      batch.payloadHash,
      batch.daCommitment ?? '0x',
    ] as const
    const data = encodeFunctionData({ abi, functionName: 'anchor', args })
    const account = this.#account
    // Asked of the latest block: in the pending one the transaction to be replaced has run already.
    const at = { address: account.address, blockTag: 'latest' } as const
    const call = {
      address,
      abi,
      functionName: 'anchor',
      args,
      account,
      blockTag: 'latest',
    } as const
    // Nodes give the contract's reason for a call, but not all of them for an estimate.
    await this.#client.simulateContract(call)
    const [chainId, nonce, estimatedGas, block, priorityFeeWei, balanceWei, l1FeeWei] =
      await Promise.all([
        this.#client.getChainId(),
        this.#client.getTransactionCount(at),
        this.#client.estimateContractGas(call),
        this.#client.getBlock({ blockTag: 'latest' }),
        this.#client.estimateMaxPriorityFeePerGas(),
        this.#client.getBalance(at),
        this.#estimateL1FeeWei(data),
      ])
    const gas = (estimatedGas * 12n) / 10n
    const fees = planFees({ baseFeeWei: block.baseFeePerGas ?? 0n, priorityFeeWei, replaced })
    const costWei = gas * fees.maxFeePerGasWei + l1FeeWei
    if (balanceWei < costWei) {
      throw new Error(
        `${account.address} holds ${balanceWei} wei, anchoring may cost up to ${costWei} wei.`,
      )
    }
    const raw = await account.signTransaction({
      ...{ type: 'eip1559', chainId, nonce, gas, to: address, data },
      maxFeePerGas: fees.maxFeePerGasWei,
      maxPriorityFeePerGas: fees.maxPriorityFeePerGasWei,
    })
    return { txHash: keccak256(raw), raw, fees }
  }

  /** `underpriced`: a transaction with the same nonce is pending, and pays too much for this one to replace it. */
  async broadcast(raw: Hex): Promise<'sent' | 'underpriced'> {
    try {
      await this.#client.sendRawTransaction({ serializedTransaction: raw })
      return 'sent'
    } catch (error) {
      const text = String(error).toLowerCase()
      if (text.includes('underpriced')) return 'underpriced'
      if (text.includes('already imported') || text.includes('already known')) return 'sent'
      throw error
    }
  }

  async #readBatchCount(): Promise<number> {
    const count = await this.#client.readContract({ ...this.#contract, functionName: 'batchCount' })
    return Number(count)
  }

  async #findEventIn(batch: Batch, txHash: Digest | null) {
    if (txHash === null) return undefined
    try {
      const { logs } = await this.#client.getTransactionReceipt({ hash: txHash })
      return this.#pickEvent(batch, logs)
    } catch (error) {
      if (error instanceof TransactionReceiptNotFoundError) return undefined
      throw error
    }
  }

  /** From the newest block back: an anchor that is looked for is almost always a recent one. */
  async #searchEvent(batch: Batch, sinceBlock: bigint) {
    let toBlock = await this.#client.getBlockNumber()
    for (let page = 0; page < MAX_LOG_PAGES && toBlock >= sinceBlock; page++) {
      const start = toBlock - LOG_PAGE_BLOCKS + 1n
      const fromBlock = start < sinceBlock ? sinceBlock : start
      const logs = await this.#client.getContractEvents({
        ...this.#contract,
        ...{ eventName: 'BatchAnchored', args: { batchId: BigInt(batch.id) } },
        ...{ fromBlock, toBlock },
      })
      const event = this.#pickEvent(batch, logs)
      if (event !== undefined) return event
      toBlock = fromBlock - 1n
    }
    throw new Error(`The contract has batch ${batch.id}, but its event was not found.`)
  }

  #pickEvent(batch: Batch, logs: Log[]) {
    const ours = logs.filter((log) => log.address.toLowerCase() === this.#contract.address)
    return parseEventLogs({ abi: usageAnchorAbi, eventName: 'BatchAnchored', logs: ours }).find(
      (event) => event.args.batchId === BigInt(batch.id),
    )
  }

  /** The OP Stack's fee for the data's way to L1; 0 where the chain has no oracle for it. */
  async #estimateL1FeeWei(data: Hex): Promise<bigint> {
    try {
      return await estimateL1Fee(this.#client, {
        account: this.#account,
        to: this.#contract.address,
        chain: undefined,
        data,
      })
    } catch {
      return 0n
    }
  }
}
