import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import {
  BaseError,
  createPublicClient,
  http,
  parseEventLogs,
  TransactionReceiptNotFoundError,
} from 'viem'
import { addressSchema } from '../protocol/digest.ts'
import { usageAnchorAbi } from '../protocol/usage-anchor-abi.ts'
import type { ChainSource, PayloadSource } from '../protocol/verify-receipt.ts'

/** Dispersed data can take its time to come back. */
const TIMEOUT_MS = 60_000

/** The chain behind a JSON-RPC URL. Without one, every question is answered by what to do. */
export function createChainSource(rpcUrl: string | undefined): ChainSource {
  if (rpcUrl === undefined) {
    const refuse = () =>
      Promise.reject(
        new Error('no chain was named: give --rpc URL, or leave it out by --skip chain'),
      )
    return { readChainId: refuse, readAnchorEvents: refuse, readFinalizedBlockNumber: refuse }
  }
  const client = createPublicClient({ transport: http(rpcUrl, { retryCount: 0 }) })
  return {
    readChainId: () => brief(client.getChainId()),
    readAnchorEvents: async (txHash) => {
      const receipt = await client
        .getTransactionReceipt({ hash: txHash })
        .catch((error: unknown) => {
          if (error instanceof TransactionReceiptNotFoundError) return null
          throw briefError(error)
        })
      if (receipt === null || receipt.status !== 'success') return null
      const { logs } = receipt
      const events = parseEventLogs({ abi: usageAnchorAbi, eventName: 'BatchAnchored', logs })
      return events.map(({ address, blockNumber, args }) => ({
        ...args,
        contract: addressSchema.parse(address.toLowerCase()),
        blockNumber: Number(blockNumber),
        batchId: Number(args.batchId),
      }))
    },
    readFinalizedBlockNumber: async () => {
      const block = await client.getBlock({ blockTag: 'finalized' }).catch(() => null)
      return block === null ? null : Number(block.number)
    },
  }
}

/** An EigenDA proxy. */
export function createDaSource(url: string): PayloadSource {
  return {
    name: `the DA proxy ${url}`,
    readPayload: async ({ da }) => {
      if (da.kind === 'none') {
        return { outcome: 'not_found', reason: 'the batch was not posted to a DA layer' }
      }
      return download(`${trimSlash(url)}/get/${da.commitment}?commitment_mode=standard`)
    },
  }
}

/** A folder or a URL that has each batch payload under its keccak256. */
export function createArchiveSource(place: string): PayloadSource {
  const isUrl = /^https?:\/\//.test(place)
  return {
    name: `the archive ${place}`,
    readPayload: async ({ batch: { payloadHash } }) => {
      if (isUrl) return download(`${trimSlash(place)}/${payloadHash}`)
      try {
        return { outcome: 'found', payload: await readFile(join(place, payloadHash)) }
      } catch (error) {
        return { outcome: 'not_found', reason: (error as Error).message }
      }
    },
  }
}

async function download(url: string) {
  const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS) })
  if (!response.ok) {
    const text = (await response.text()).trim().slice(-200)
    return { outcome: 'not_found', reason: `status ${response.status}, ${text}` } as const
  }
  const payload = new Uint8Array(await response.arrayBuffer())
  return { outcome: 'found', payload } as const
}

async function brief<Value>(promise: Promise<Value>): Promise<Value> {
  try {
    return await promise
  } catch (error) {
    throw briefError(error)
  }
}

/** viem's messages run over many lines. */
function briefError(error: unknown): unknown {
  if (!(error instanceof BaseError)) return error
  return new Error(`the chain does not answer: ${error.shortMessage}`, { cause: error })
}

function trimSlash(url: string): string {
  return url.replace(/\/+$/, '')
}
