import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { BackendError } from '../errors.ts'
import { type MultipartPart, readMultipart } from './multipart.ts'

/** Parts of one upload: its files and fields. */
const MAX_PART_COUNT = 16

const MAX_FIELD_BYTES = 4_096

interface UploadOptions {
  /** Where the files go. */
  readonly folder: string
  /** The files that are taken, and how large each may be. */
  readonly maxBytes: ReadonlyMap<string, number>
  /** The refusal of a file or field. */
  readonly reject: (param: string, why: string) => BackendError
}

/**
 * Writes the files of a multipart upload as they come, each counted against its limit, and returns
 * the other fields. Throws a refusal for a file that is none of those that are taken.
 */
export async function receiveUpload(
  req: Request,
  { folder, maxBytes, reject }: UploadOptions,
): Promise<Readonly<Record<string, string>>> {
  const seen = new Set<string>()
  const fields: Record<string, string> = {}
  const parts = readMultipart(req.body ?? emptyBody(), req.headers.get('content-type') ?? '')
  for await (const part of parts) {
    const key = part.fileName ?? part.name
    if (seen.size >= MAX_PART_COUNT) {
      throw reject(key, `is one part more than the ${MAX_PART_COUNT} that are read`)
    }
    if (seen.has(key)) throw reject(key, 'was sent twice')
    seen.add(key)
    if (part.fileName === null) {
      fields[part.name] = await readField(part)
      continue
    }
    const limitBytes = maxBytes.get(part.fileName)
    if (limitBytes === undefined) {
      throw reject(part.fileName, explainForeignFile(part.fileName, [...maxBytes.keys()]))
    }
    await writePart(part, join(folder, part.fileName), limitBytes)
  }
  return fields
}

async function* emptyBody(): AsyncGenerator<Uint8Array> {}

function explainForeignFile(name: string, taken: readonly string[]): string {
  if (/\.(zip|tar|tgz|gz|7z|rar)$/i.test(name))
    return 'is an archive, and archives are not unpacked'
  if (/\.(bin|pt|pth|pkl)$/i.test(name)) return 'may be a pickle, which is never read'
  return `is none of ${taken.join(', ')}`
}

async function readField({ name, body }: MultipartPart): Promise<string> {
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  for await (const chunk of body) {
    sizeBytes += chunk.byteLength
    if (sizeBytes > MAX_FIELD_BYTES) throw tooLarge(name, MAX_FIELD_BYTES)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

async function writePart({ name, body }: MultipartPart, path: string, maxBytes: number) {
  await using file = await open(path, 'wx')
  let sizeBytes = 0
  for await (const chunk of body) {
    sizeBytes += chunk.byteLength
    if (sizeBytes > maxBytes) throw tooLarge(name, maxBytes)
    await file.writeFile(chunk)
  }
  await file.sync()
}

function tooLarge(name: string, maxBytes: number): BackendError {
  return new BackendError('request_too_large', `'${name}' has more than ${maxBytes} bytes.`, {
    param: name,
  })
}
