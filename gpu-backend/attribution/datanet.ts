import { createHash } from 'node:crypto'
import { readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { z } from 'zod'
import {
  contributorsSchema,
  MAX_CONTRIBUTORS_BYTES,
  MAX_DATANET_BYTES,
} from '../../protocol/datanet-listing.ts'
import type { Address, Digest } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'

export const DATANET_FILE = 'datanet.jsonl'
export const CONTRIBUTORS_FILE = 'contributors.json'

/** One example of a datanet. */
export interface Datum {
  readonly id: string
  readonly contributor: string
  /** What it teaches a model to say: each assistant message, or the whole text. Never empty. */
  readonly completions: readonly string[]
  readonly licence: string
}

export interface Contributor {
  readonly payee: Address
  readonly name: string
}

export interface Datanet {
  readonly name: string
  /** `sha256(sha256(datanet.jsonl) ‖ sha256(contributors.json))` of the files' bytes. */
  readonly digest: Digest
  readonly contributors: ReadonlyMap<string, Contributor>
  /** In the order of the file, which is the order of registration. */
  readonly data: readonly Datum[]
}

export interface DatanetFiles {
  readonly datanetJsonl: Uint8Array
  readonly contributorsJson: Uint8Array
}

const idSchema = z.string().min(1).max(200)

const datumSchema = z.strictObject({
  id: idSchema,
  contributor: idSchema,
  licence: z.string().min(1).max(100),
  messages: z
    .array(
      z.strictObject({ role: z.enum(['system', 'user', 'assistant']), content: z.string().min(1) }),
    )
    .optional(),
  text: z.string().min(1).optional(),
})

/**
 * Reads the datanet in a folder: `datanet.jsonl` and `contributors.json`. Its name is the folder's.
 * @throws BackendError `datanet_rejected`, naming the file, line and field at fault.
 */
export async function readDatanet(folder: string): Promise<Datanet> {
  const [datanetJsonl, contributorsJson] = await Promise.all([
    readLimited(folder, DATANET_FILE, MAX_DATANET_BYTES),
    readLimited(folder, CONTRIBUTORS_FILE, MAX_CONTRIBUTORS_BYTES),
  ])
  return parseDatanet(basename(folder), { datanetJsonl, contributorsJson })
}

/**
 * The datanet that the two files describe.
 * @throws BackendError `datanet_rejected`, naming the file, line and field at fault.
 */
export function parseDatanet(name: string, files: DatanetFiles): Datanet {
  const contributors = parseContributors(files.contributorsJson)
  const data: Datum[] = []
  const lineOfId = new Map<string, number>()
  const lines = decodeUtf8(files.datanetJsonl, DATANET_FILE).split('\n')
  for (const [index, line] of lines.entries()) {
    if (line.trim() === '') continue
    const where = `${DATANET_FILE} line ${index + 1}`
    const datum = parseDatum(line, where)
    const earlier = lineOfId.get(datum.id)
    if (earlier !== undefined) {
      throw rejected(where, `id: "${datum.id}" is already the id of line ${earlier}`)
    }
    if (!contributors.has(datum.contributor)) {
      throw rejected(where, `contributor: "${datum.contributor}" is not in contributors.json`)
    }
    lineOfId.set(datum.id, index + 1)
    data.push(datum)
  }
  if (data.length === 0) throw rejected(DATANET_FILE, 'holds no examples')
  return { name, digest: digestFiles(files), contributors, data }
}

function parseContributors(bytes: Uint8Array): ReadonlyMap<string, Contributor> {
  const where = CONTRIBUTORS_FILE
  const parsed = contributorsSchema.safeParse(parseJson(decodeUtf8(bytes, where), where))
  if (!parsed.success) throw rejected(where, describeIssue(parsed.error))
  return new Map(Object.entries(parsed.data))
}

function parseDatum(line: string, where: string): Datum {
  const parsed = datumSchema.safeParse(parseJson(line, where))
  if (!parsed.success) throw rejected(where, describeIssue(parsed.error))
  const { id, contributor, licence, messages, text } = parsed.data
  if ((messages === undefined) === (text === undefined)) {
    throw rejected(where, 'must have either "messages" or "text"')
  }
  const completions =
    text === undefined
      ? (messages ?? []).filter(({ role }) => role === 'assistant').map(({ content }) => content)
      : [text]
  if (completions.length === 0) throw rejected(where, 'messages: none is by the assistant')
  return { id, contributor, licence, completions }
}

async function readLimited(folder: string, name: string, limitBytes: number): Promise<Uint8Array> {
  const path = join(folder, name)
  try {
    const { size } = await stat(path)
    if (size > limitBytes) {
      throw rejected(name, `has ${size} bytes, and at most ${limitBytes} are read`)
    }
    return await readFile(path)
  } catch (error) {
    if (error instanceof BackendError) throw error
    throw rejected(name, 'cannot be read', error)
  }
}

function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (error) {
    throw rejected(where, 'is not UTF-8', error)
  }
}

function parseJson(text: string, where: string): unknown {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw rejected(where, 'is not valid JSON', error)
  }
}

function describeIssue(error: z.ZodError): string {
  const issue = error.issues[0]
  if (issue === undefined) return error.message
  return `${[...issue.path, issue.message].join(': ')}`
}

function digestFiles(files: DatanetFiles): Digest {
  const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest()
  const parts = [sha256(files.datanetJsonl), sha256(files.contributorsJson)]
  return `0x${sha256(Buffer.concat(parts)).toString('hex')}`
}

/** `where`: a file, perhaps with its line. */
function rejected(where: string, why: string, cause?: unknown): BackendError {
  const message = `The datanet's ${where}: ${why}.`
  return new BackendError('datanet_rejected', message, { param: where, cause })
}
