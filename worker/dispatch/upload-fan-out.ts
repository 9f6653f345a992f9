import { ApiError } from '../errors.ts'

/** Where one copy of an upload goes. */
interface UploadBranch {
  /** What the backend reads. */
  readonly body: ReadableStream<Uint8Array>
  /** To be called once the backend has answered: it reads no further. */
  readonly stop: () => void
}

export interface UploadFanOut {
  readonly branches: readonly UploadBranch[]
  /**
   * Reads the source to its end. Rejects, and breaks the branches off, when the source fails or is
   * larger than allowed; what is too large is read on for as much again.
   */
  readonly run: () => Promise<void>
}

export interface FanOutOptions {
  readonly branchCount: number
  readonly maxSizeBytes: number
  /** How long a backend may take to read a chunk before it gets no more. */
  readonly maxSilenceMs: number
}

/**
 * Copies an upload as it comes to several readers, at the pace of the slowest: nothing is held but
 * the chunk under way.
 */
export function fanOutUpload(
  source: AsyncIterable<Uint8Array>,
  { branchCount, maxSizeBytes, maxSilenceMs }: FanOutOptions,
): UploadFanOut {
  const branches = Array.from({ length: branchCount }, () => createBranch(maxSilenceMs))
  return {
    branches,
    run: async () => {
      let sizeBytes = 0
      try {
        for await (const chunk of source) {
          sizeBytes += chunk.length
          if (sizeBytes > maxSizeBytes) {
            for (const branch of branches) branch.breakOff()
            // A client that is cut off while it sends sees a broken connection instead of our answer.
            if (sizeBytes > 2 * maxSizeBytes) break
            continue
          }
          await Promise.all(branches.map((branch) => branch.write(chunk)))
        }
        if (sizeBytes > maxSizeBytes) throw tooLarge(maxSizeBytes)
        await Promise.all(branches.map((branch) => branch.close()))
      } catch (error) {
        for (const branch of branches) branch.breakOff()
        throw error
      }
    },
  }
}

export function tooLarge(maxSizeBytes: number): ApiError {
  const message = `The upload is larger than ${maxSizeBytes} bytes.`
  return new ApiError('request_too_large', { message })
}

function createBranch(maxSilenceMs: number) {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
  const writer = writable.getWriter()
  writer.closed.catch(() => {}) // whoever reads is told
  const stopped = Promise.withResolvers<void>()
  let isOpen = true

  const breakOff = () => {
    if (!isOpen) return
    isOpen = false
    stopped.resolve()
    writer.abort(new Error('The upload ends here.')).catch(() => {}) // nobody reads it any more
  }

  /** Waits for the reader, but not for one that has gone or fallen silent. */
  const whileRead = async (work: Promise<void>) => {
    const timer = setTimeout(breakOff, maxSilenceMs)
    await Promise.race([work, stopped.promise]).catch(breakOff)
    clearTimeout(timer)
  }

  return {
    body: readable,
    stop: breakOff,
    breakOff,
    write: async (chunk: Uint8Array) => {
      if (isOpen) await whileRead(writer.write(chunk.slice())) // each reader owns its bytes
    },
    close: async () => {
      if (isOpen) await whileRead(writer.close())
    },
  }
}
