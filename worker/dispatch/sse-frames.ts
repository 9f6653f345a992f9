/** One event of a server-sent stream, or a comment between two. */
export interface SseFrame {
  /** As they came, the blank line that ends the frame included. */
  readonly bytes: Uint8Array
  /** Its `data` lines joined with a line feed; null for a comment or an event without data. */
  readonly data: string | null
}

export interface SseScanner {
  /** The frames that this chunk completes. Their bytes are views of it where it holds them whole. */
  readonly push: (chunk: Uint8Array) => SseFrame[]
  /** What came after the last complete frame. */
  readonly rest: () => Uint8Array
}

const LINE_FEED = 10
const CARRIAGE_RETURN = 13
const MAX_FRAME_BYTES = 8 * 1024 * 1024

/**
 * Cuts a byte stream into SSE frames (HTML Living Standard 9.2), wherever the chunks are cut. The
 * frames' bytes and the rest, joined, are the stream. Throws on a frame of more than 8 MiB.
 */
export function createSseScanner(): SseScanner {
  let carry: Uint8Array = new Uint8Array(0)
  let isLineEmpty = true
  let wasCarriageReturn = false

  function push(chunk: Uint8Array): SseFrame[] {
    const frames: SseFrame[] = []
    const buffer = carry.length === 0 ? chunk : concatBytes(carry, chunk)
    let start = 0
    for (let at = carry.length; at < buffer.length; at++) {
      const byte = buffer[at]
      const endsCrLf = byte === LINE_FEED && wasCarriageReturn
      wasCarriageReturn = byte === CARRIAGE_RETURN
      if (endsCrLf) continue // the line ended at its carriage return; this belongs to what follows
      if (byte !== LINE_FEED && byte !== CARRIAGE_RETURN) {
        isLineEmpty = false
      } else if (!isLineEmpty) {
        isLineEmpty = true
      } else {
        frames.push(createFrame(buffer.subarray(start, at + 1)))
        start = at + 1
      }
    }
    carry = buffer.subarray(start)
    if (carry.length > MAX_FRAME_BYTES) throw new Error('An SSE frame is longer than 8 MiB.')
    return frames
  }

  return { push, rest: () => carry }
}

const decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })

function createFrame(bytes: Uint8Array): SseFrame {
  const data: string[] = []
  for (const line of decoder.decode(bytes).split(/\r\n|\n|\r/)) {
    if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5))
    else if (line === 'data') data.push('')
  }
  return { bytes, data: data.length === 0 ? null : data.join('\n') }
}

function concatBytes(first: Uint8Array, second: Uint8Array): Uint8Array {
  const joined = new Uint8Array(first.length + second.length)
  joined.set(first)
  joined.set(second, first.length)
  return joined
}
