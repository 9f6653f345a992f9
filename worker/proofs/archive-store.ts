import type { R2Bucket } from '@cloudflare/workers-types'
import { keccak256 } from 'viem'
import type { Digest } from '../../protocol/digest.ts'

/** The batch payloads that outlive the DA layer's two weeks, each under its own keccak256. */
export class ArchiveStore {
  readonly #bucket: R2Bucket

  constructor(bucket: R2Bucket) {
    this.#bucket = bucket
  }

  async put(payloadHash: Digest, payload: Uint8Array): Promise<void> {
    await this.#bucket.put(archiveKey(payloadHash), payload)
  }

  /** Null where there is none, or where what is there has another keccak256. */
  async get(payloadHash: Digest): Promise<Uint8Array<ArrayBuffer> | null> {
    const object = await this.#bucket.get(archiveKey(payloadHash))
    if (object === null) return null
    const payload = new Uint8Array(await object.arrayBuffer())
    return keccak256(payload) === payloadHash ? payload : null
  }
}

function archiveKey(payloadHash: Digest): string {
  return `batches/${payloadHash}`
}
