import { open } from 'node:fs/promises'
import { ModelFileError } from './model-file-error.ts'

/** Reads stop at 2 GiB, so files are read in pieces. */
const PIECE_BYTES = 2 ** 30

/** The whole file in one buffer, of any size that memory allows. Rejects with {@link ModelFileError}. */
export async function readWeightsFile(path: string): Promise<Buffer> {
  try {
    await using file = await open(path)
    const { size } = await file.stat()
    const buffer = Buffer.allocUnsafeSlow(size)
    for (let at = 0; at < size; ) {
      const { bytesRead } = await file.read(buffer, at, Math.min(PIECE_BYTES, size - at), at)
      if (bytesRead === 0) throw new ModelFileError(`${path} became shorter while it was read.`)
      at += bytesRead
    }
    return buffer
  } catch (error) {
    if (error instanceof ModelFileError) throw error
    const reason = error instanceof Error ? error.message : String(error)
    throw new ModelFileError(`${path} cannot be read (${reason}).`, { cause: error })
  }
}
