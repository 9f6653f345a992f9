import type { Digest } from '../../protocol/digest.ts'
import type { AnchorClient, SignedAnchor } from '../../worker/proofs/anchor-client.ts'
import type { AnchorPlace, Batch } from '../../worker/proofs/batch-store.ts'
import { type FeesPerGas, planFees } from '../../worker/proofs/plan-fees.ts'
import type { Network } from './network.ts'

const BLOCK_MS = 2_000
const FINAL_DEPTH = 20
const CONTRACT = `0x${'7'.repeat(40)}` as const

interface Transaction extends SignedAnchor {
  readonly nonce: number
  readonly batchId: number
  readonly payloadHash: Digest
}

interface Anchored {
  readonly transaction: Transaction
  readonly place: AnchorPlace
}

/** A chain with the contract's rule: batches come one after the other, each id once. */
export class SimulatedChain implements AnchorClient {
  /** By batch id, from 1. */
  readonly anchors: Anchored[] = []
  readonly #network: Network
  readonly #signed = new Map<string, Transaction>()
  /** One account: one pending transaction a nonce, and only the next nonce is ever used. */
  #pending: Transaction | null = null
  #blockNumber = 1

  constructor(network: Network) {
    this.#network = network
    this.#mine()
  }

  #mine(): void {
    const { time, chance } = this.#network
    time.schedule(BLOCK_MS, () => {
      this.#blockNumber += 1
      const next = this.#pending
      if (next !== null && chance.isHit(0.7)) {
        this.#pending = null
        const { txHash } = next
        const place = { chainId: 1, contract: CONTRACT, txHash, blockNumber: this.#blockNumber }
        // Any other id is refused by the contract: sign() asked it before.
        if (next.batchId === this.anchors.length + 1)
          this.anchors.push({ transaction: next, place })
      }
      this.#mine()
    })
  }

  /** The newest anchor's block is gone: its transaction is pending again, or forgotten. */
  reorganise(): void {
    const newest = this.anchors.at(-1)
    if (newest === undefined || newest.place.blockNumber <= this.#finalBlockNumber()) return
    this.anchors.pop()
    this.#pending = this.#network.chance.isHit(0.5) ? newest.transaction : null
  }

  #finalBlockNumber(): number {
    return this.#blockNumber - FINAL_DEPTH
  }

  readHead() {
    return this.#network.send(() => ({
      batchCount: this.anchors.length,
      finalizedBlockNumber: Math.max(0, this.#finalBlockNumber()),
    }))
  }

  findAnchor(batch: Batch) {
    return this.#network.send(() => {
      const anchored = this.anchors[batch.id - 1]
      if (anchored === undefined) return { outcome: 'absent' } as const
      if (anchored.transaction.payloadHash !== batch.payloadHash)
        throw new Error(`Batch ${batch.id} belongs to another ledger.`)
      return { outcome: 'anchored', place: anchored.place } as const
    })
  }

  readTransaction(txHash: Digest) {
    return this.#network.send(() => {
      if (this.#pending?.txHash === txHash)
        return { outcome: 'pending', fees: this.#pending.fees } as const
      const isMined = this.anchors.some(({ place }) => place.txHash === txHash)
      return { outcome: isMined ? 'mined' : 'unknown' } as const
    })
  }

  sign(batch: Batch, replaced: FeesPerGas | null) {
    return this.#network.send((): SignedAnchor => {
      const batchCount = this.anchors.length
      if (batch.id !== batchCount + 1) throw new Error(`The contract expects ${batchCount + 1}.`)
      const fees = planFees({ baseFeeWei: 100n, priorityFeeWei: 10n, replaced })
      const nonce = this.anchors.length
      const name = `${batch.id} ${batch.payloadHash} ${nonce} ${fees.maxFeePerGasWei}`
      const txHash = `0x${Buffer.from(name).toString('hex').slice(-64).padStart(64, '0')}` as const
      const { payloadHash } = batch
      const signed = { txHash, raw: txHash, fees, nonce, batchId: batch.id, payloadHash }
      this.#signed.set(txHash, signed)
      return signed
    })
  }

  broadcast(raw: Digest) {
    return this.#network.send((): 'sent' | 'underpriced' => {
      const transaction = this.#signed.get(raw)
      if (transaction === undefined) throw new Error('no such transaction')
      if (transaction.nonce < this.anchors.length) throw new Error('nonce too low')
      if (this.#pending?.txHash === raw) return 'sent'
      const least = ((this.#pending?.fees.maxFeePerGasWei ?? 0n) * 11n) / 10n
      if (transaction.fees.maxFeePerGasWei < least) return 'underpriced'
      this.#pending = transaction
      return 'sent'
    })
  }
}
