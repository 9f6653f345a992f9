import { open } from 'node:fs/promises'
import { join } from 'node:path'
import {
  CONFIG_FILE,
  MANIFEST_FILE,
  MAX_JSON_BYTES,
  rejectFile,
  WEIGHTS_FILE,
} from '../adapters/adapter-folder.ts'
import { BackendError } from '../errors.ts'
import { type MultipartPart, readMultipart } from './multipart.ts'

/** Parts of one upload: three files and the fields that `POST /v1/adapters` knows. */
const MAX_PART_COUNT = 16

const MAX_FIELD_BYTES = 4_096

interface UploadOptions {
  /** Where the files go. */
  readonly folder: string
  /** Largest weights file that is taken. */
  readonly maxFileBytes: number
}

/**
 * Writes the files of a multipart upload as they come, each counted against its limit, and returns
 * the other fields. Throws `adapter_rejected` for a file that is not of a PEFT directory.
 */
export async function receiveUpload(
  req: Request,
  { folder, maxFileBytes }: UploadOptions,
): Promise<Readonly<Record<string, string>>> {
  const limits = new Map([
    [CONFIG_FILE, MAX_JSON_BYTES],
    [WEIGHTS_FILE, maxFileBytes],
    [MANIFEST_FILE, MAX_JSON_BYTES],
  ])
  const seen = new Set<string>()
  const fields: Record<string, string> = {}
  const parts = readMultipart(req.body ?? emptyBody(), req.headers.get('content-type') ?? '')
  for await (const part of parts) {
    const key = part.fileName ?? part.name
    if (seen.size >= MAX_PART_COUNT) {
      throw rejectFile(key, `is one part more than the ${MAX_PART_COUNT} that are read`)
    }
    if (seen.has(key)) throw rejectFile(key, 'was sent twice')
    seen.add(key)
    if (part.fileName === null) {
      fields[part.name] = await readField(part)
      continue
    }
    const maxBytes = limits.get(part.fileName)
    if (maxBytes === undefined) throw rejectFile(part.fileName, explainForeignFile(part.fileName))
    await writePart(part, join(folder, part.fileName), maxBytes)
  }
  return fields
}

async function* emptyBody(): AsyncGenerator<Uint8Array> {}

function explainForeignFile(name: string): string {
  if (/\.(zip|tar|tgz|gz|7z|rar)$/i.test(name))
    return 'is an archive, and archives are not unpacked'
  if (/\.(bin|pt|pth|pkl)$/i.test(name)) return 'may be a pickle, which is never read'
  return `is none of ${CONFIG_FILE}, ${WEIGHTS_FILE} and ${MANIFEST_FILE}`
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
