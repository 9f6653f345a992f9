import { inflateRawSync } from 'node:zlib'
import { ModelFileError } from './model-file-error.ts'

const END_SIGNATURE = 0x06054b50
const END_SIZE_BYTES = 22
const ENTRY_SIGNATURE = 0x02014b50
const ENTRY_SIZE_BYTES = 46
const LOCAL_SIZE_BYTES = 30

/**
 * The contents of the first entry of a ZIP archive whose path ends in `suffix` (PKWARE APPNOTE,
 * stored or deflated, no ZIP64: a wheel). Throws {@link ModelFileError} when there is none or the
 * archive is damaged. Checksums are left to the caller, who pins a better one.
 */
export function readZipEntry(archive: Buffer, suffix: string): Buffer {
  try {
    const entry = findEntry(archive, suffix)
    if (entry) return entry
  } catch (error) {
    throw new ModelFileError('The archive is damaged.', { cause: error })
  }
  throw new ModelFileError(`The archive holds no ${suffix}.`)
}

function findEntry(archive: Buffer, suffix: string): Buffer | null {
  const end = archive.lastIndexOf(littleEndian(END_SIGNATURE), archive.length - END_SIZE_BYTES)
  if (end < 0) throw new Error('no end of central directory')
  let at = archive.readUInt32LE(end + 16)
  for (let left = archive.readUInt16LE(end + 10); left > 0; left--) {
    if (archive.readUInt32LE(at) !== ENTRY_SIGNATURE) throw new Error('no central directory entry')
    const nameLength = archive.readUInt16LE(at + 28)
    const name = archive.toString('utf8', at + ENTRY_SIZE_BYTES, at + ENTRY_SIZE_BYTES + nameLength)
    if (name.endsWith(suffix)) return unpack(archive, at)
    const extraLength = archive.readUInt16LE(at + 30)
    const commentLength = archive.readUInt16LE(at + 32)
    at += ENTRY_SIZE_BYTES + nameLength + extraLength + commentLength
  }
  return null
}

function unpack(archive: Buffer, entry: number): Buffer {
  const method = archive.readUInt16LE(entry + 10)
  const packedBytes = archive.readUInt32LE(entry + 20)
  // No more is unpacked than the directory says.
  const sizeBytes = Math.max(1, archive.readUInt32LE(entry + 24))
  const local = archive.readUInt32LE(entry + 42)
  const begin =
    local + LOCAL_SIZE_BYTES + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28)
  const packed = archive.subarray(begin, begin + packedBytes)
  if (method === 0) return packed
  if (method === 8) return inflateRawSync(packed, { maxOutputLength: sizeBytes })
  throw new Error(`compression method ${method}`)
}

function littleEndian(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}
