/** A body of server-sent events that is written to as the answer grows. */
export interface EventStream {
  readonly body: ReadableStream<Uint8Array>
  /** One frame. After the reader left, nothing happens. */
  readonly send: (data: object) => void
  /** `[DONE]` and the end. */
  readonly finish: () => void
  /** An OpenAI error object as the last frame, and the end without `[DONE]`. */
  readonly fail: (error: object) => void
}

/**
 * Frames are queued without waiting for the reader: a slow reader holds up nobody, and an answer is
 * bounded by its `max_tokens`.
 */
export function createEventStream(): EventStream {
  const encoder = new TextEncoder()
  let controller: ReadableStreamDefaultController<Uint8Array> | null = null
  const body = new ReadableStream<Uint8Array>({
    start: (started) => {
      controller = started
    },
    cancel: () => {
      controller = null
    },
  })
  const write = (data: string) => controller?.enqueue(encoder.encode(`data: ${data}\n\n`))
  const close = () => {
    controller?.close()
    controller = null
  }
  return {
    body,
    send: (data) => write(JSON.stringify(data)),
    finish: () => {
      write('[DONE]')
      close()
    },
    fail: (error) => {
      write(JSON.stringify(error))
      close()
    },
  }
}
