import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { contributorsSchema } from '../../protocol/datanet-listing.ts'
import { digestSchema } from '../../protocol/digest.ts'
import { splitName, toFileName } from '../adapters/owned-name.ts'
import { BackendError } from '../errors.ts'
import { ModelFileError } from '../model/model-file-error.ts'
import type { Attributor } from './attribution.ts'
import { createAttributorCache } from './attributor-cache.ts'
import { digestAttributor } from './create-attributor.ts'
import { CONTRIBUTORS_FILE, DATANET_FILE, readDatanet } from './datanet.ts'

/** `record.json`, beside the two files of a datanet. */
const recordSchema = z.strictObject({
  version: z.literal(1),
  /** `tenant/name`. */
  id: z.string(),
  digest: digestSchema,
  sizeBytes: z.int().positive(),
  datumCount: z.int().positive(),
  contributorCount: z.int().positive(),
  licences: z.array(z.string()),
  createdAtMs: z.int(),
})

export type StoredDatanet = Readonly<z.infer<typeof recordSchema>>

/** Refuses by throwing: it is asked when nothing can come between its answer and what it allows. */
type Permit = () => void

/**
 * The datanets that tenants sent, each in a folder of its own. Folders appear and go by one rename;
 * what a crash leaves behind is in `incoming/`, which each start empties.
 */
export interface DatanetStore {
  readonly list: () => readonly StoredDatanet[]
  readonly find: (id: string) => StoredDatanet | null
  readonly readContributors: (id: string) => Promise<z.infer<typeof contributorsSchema>>
  /** An empty folder for the files, to be discarded in the end whatever became of it. */
  readonly stage: () => Promise<string>
  readonly discard: (folder: string) => Promise<void>
  /**
   * Checks the files of a staged folder and keeps them under the id. The same content again changes
   * nothing; `permitChange` is asked before another takes the place of what the id meant. Throws
   * `datanet_rejected`.
   */
  readonly keep: (id: string, folder: string, permitChange: Permit) => Promise<StoredDatanet>
  /** False: there is none. */
  readonly remove: (id: string, permit: Permit) => Promise<boolean>
  /** The index over a datanet. Rejects for one that is not here. */
  readonly open: (id: string) => Promise<Attributor>
}

export interface DatanetStoreOptions {
  readonly dir: string
  /** Files of all datanets together. */
  readonly budgetBytes: number
  readonly maxTenantCount: number
  readonly now: () => number
}

/** Opens the store, making it where it is missing. Rejects with ModelFileError for a record that cannot be read. */
export async function openDatanetStore(options: DatanetStoreOptions): Promise<DatanetStore> {
  const { dir, now } = options
  const incoming = join(dir, 'incoming')
  const content = join(dir, 'content')
  await rm(incoming, { recursive: true, force: true })
  for (const folder of [incoming, content]) await mkdir(folder, { recursive: true })
  const records = await readRecords(content)
  const openFolder = createAttributorCache()
  const pathOf = (id: string) => join(content, toFileName(id))
  const createPath = () => join(incoming, randomUUID())
  /** Changes happen one after another. */
  let tail: Promise<unknown> = Promise.resolve()
  const enqueue = <Result>(run: () => Promise<Result>): Promise<Result> => {
    const done = tail.then(run)
    tail = done.catch(() => undefined) // the caller of this one is told
    return done
  }

  const drop = async (id: string) => {
    records.delete(id)
    const grave = createPath()
    await rename(pathOf(id), grave)
    await rm(grave, { recursive: true })
  }

  const keep = async (id: string, folder: string, permitChange: Permit) => {
    const record = await describeFolder(id, folder, now())
    const known = records.get(id)
    if (known?.digest === record.digest) return known
    checkRoom(record, [...records.values()], options)
    await writeDurably(join(folder, RECORD_FILE), `${JSON.stringify(record, null, 2)}\n`)
    permitChange()
    if (known) await drop(id)
    await rename(folder, pathOf(id))
    records.set(id, record)
    return record
  }

  return {
    list: () => [...records.values()],
    find: (id) => records.get(id) ?? null,
    readContributors: async (id) =>
      contributorsSchema.parse(
        JSON.parse(await readFile(join(pathOf(id), CONTRIBUTORS_FILE), 'utf8')),
      ),
    stage: async () => {
      const folder = createPath()
      await mkdir(folder)
      return folder
    },
    discard: (folder) => rm(folder, { recursive: true, force: true }),
    keep: (id, folder, permitChange) => enqueue(() => keep(id, folder, permitChange)),
    remove: (id, permit) =>
      enqueue(async () => {
        if (!records.has(id)) return false
        permit()
        await drop(id)
        return true
      }),
    open: async (id) => {
      const record = records.get(id)
      if (!record) throw new Error('a datanet was opened that is not here')
      const attributor = await openFolder(pathOf(id))
      if (attributor.digest === digestAttributor(record.digest)) return attributor
      throw rejectDatanet('id', 'names files that changed since they were sent')
    },
  }
}

const RECORD_FILE = 'record.json'

/** `datanet_rejected` for a file or field of a datanet. */
export function rejectDatanet(param: string, why: string): BackendError {
  return new BackendError('datanet_rejected', `The datanet's '${param}' ${why}.`, { param })
}

async function describeFolder(id: string, folder: string, nowMs: number): Promise<StoredDatanet> {
  const { digest, contributors, data } = await readDatanet(folder)
  return {
    version: 1,
    id,
    digest,
    sizeBytes: await measureFiles(folder),
    datumCount: data.length,
    contributorCount: contributors.size,
    licences: [...new Set(data.map(({ licence }) => licence))].sort(),
    createdAtMs: nowMs,
  }
}

async function measureFiles(folder: string): Promise<number> {
  const names = [DATANET_FILE, CONTRIBUTORS_FILE]
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}

function checkRoom(
  { id, sizeBytes }: StoredDatanet,
  records: readonly StoredDatanet[],
  { budgetBytes, maxTenantCount }: DatanetStoreOptions,
): void {
  const others = records.filter((other) => other.id !== id)
  const { tenant } = splitName(id)
  const ownCount = others.filter((other) => splitName(other.id).tenant === tenant).length
  if (ownCount >= maxTenantCount) {
    throw rejectDatanet('id', `is one more than the ${maxTenantCount} that an account may have`)
  }
  if (others.reduce((sum, other) => sum + other.sizeBytes, sizeBytes) > budgetBytes) {
    const room = `at most ${budgetBytes} bytes of datanets are stored`
    throw rejectDatanet(DATANET_FILE, `does not fit: ${room}`)
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  await using file = await open(path, 'wx')
  await file.writeFile(text)
  await file.sync()
}

async function readRecords(content: string): Promise<Map<string, StoredDatanet>> {
  const records = new Map<string, StoredDatanet>()
  for (const name of (await readdir(content)).sort()) {
    const path = join(content, name, RECORD_FILE)
    try {
      const record = recordSchema.parse(JSON.parse(await readFile(path, 'utf8')))
      records.set(record.id, record)
    } catch (cause) {
      throw new ModelFileError(`${path} is not a valid record of a datanet.`, { cause })
    }
  }
  return records
}
