import { type KeptAnswer, MAX_KEPT_ANSWER_BYTES } from '../access/idempotency.ts'
import { joinBytes } from './join-bytes.ts'

export interface AnswerRecorder {
  /** Takes note of bytes that went out. */
  readonly note: (bytes: Uint8Array) => void
  /** What went out and its end, to be given again; undefined when that is too large to keep. */
  readonly compose: (tail: Uint8Array) => KeptAnswer | undefined
}

/** Records an answer while it goes out, up to the size that is kept. */
export function createAnswerRecorder(contentType: string): AnswerRecorder {
  let parts: Uint8Array[] = []
  let sizeBytes = 0
  const note = (bytes: Uint8Array) => {
    sizeBytes += bytes.length
    if (sizeBytes > MAX_KEPT_ANSWER_BYTES) parts = []
    else parts.push(bytes)
  }
  return {
    note,
    compose: (tail) => {
      note(tail)
      if (sizeBytes > MAX_KEPT_ANSWER_BYTES) return undefined
      // A copy: what a stream's reader handed out may be a view of a larger buffer.
      return { contentType, body: joinBytes(parts).slice() }
    },
  }
}
