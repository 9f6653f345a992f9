import { DurableObject } from 'cloudflare:workers'
import type { StorageBindings } from '../env.ts'

/** A response that its caller asked to keep, as JSON texts. */
export interface KeptResponse {
  readonly response: string
  /** Everything that was said until then, the response's own output last. */
  readonly conversation: string
}

/** How long a response is kept. */
export const RESPONSE_KEPT_MS = 30 * 86_400_000

/** A stored value holds 2 MB. */
const PIECE_BYTES = 1_048_576
const MAX_KEPT_BYTES = 16 * PIECE_BYTES

/**
 * One kept response. The object's name is account, key and response id, so that no other key reaches
 * it; it forgets itself when its time is up, and stores nothing until there is something to keep.
 */
export class ResponseObject extends DurableObject<StorageBindings> {
  /** False for what is too large to keep. */
  async keep(kept: KeptResponse): Promise<boolean> {
    const bytes = new TextEncoder().encode(JSON.stringify(kept))
    if (bytes.length > MAX_KEPT_BYTES) return false
    const pieceCount = Math.ceil(bytes.length / PIECE_BYTES)
    this.ctx.storage.transactionSync(() => {
      for (let piece = 0; piece < pieceCount; piece++)
        this.ctx.storage.kv.put(
          `piece/${piece}`,
          bytes.slice(piece * PIECE_BYTES, (piece + 1) * PIECE_BYTES),
        )
      this.ctx.storage.kv.put('pieceCount', pieceCount)
    })
    await this.ctx.storage.setAlarm(Date.now() + RESPONSE_KEPT_MS)
    return true
  }

  /** Null when there is none, or none any more. */
  read(): KeptResponse | null {
    const pieceCount = this.ctx.storage.kv.get<number>('pieceCount')
    if (pieceCount === undefined) return null
    const decoder = new TextDecoder()
    let text = ''
    for (let piece = 0; piece < pieceCount; piece++)
      text += decoder.decode(this.ctx.storage.kv.get<Uint8Array>(`piece/${piece}`), {
        stream: true,
      })
    return JSON.parse(text + decoder.decode()) as KeptResponse // as `keep` wrote it
  }

  /** False when there was none. */
  async forget(): Promise<boolean> {
    if (this.ctx.storage.kv.get('pieceCount') === undefined) return false
    await this.ctx.storage.deleteAlarm()
    await this.ctx.storage.deleteAll()
    return true
  }

  override async alarm(): Promise<void> {
    await this.ctx.storage.deleteAll()
  }
}
