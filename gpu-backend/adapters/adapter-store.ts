import { randomUUID } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { addressSchema, type Digest, digestSchema } from '../../protocol/digest.ts'
import { ModelFileError } from '../model/model-file-error.ts'
import { datanetNameSchema, qualifiedIdSchema, rejectFile, WEIGHTS_FILE } from './adapter-folder.ts'
import { ByteBudget } from './byte-budget.ts'
import { toFileName } from './owned-name.ts'

/** Where the content of a registered adapter comes from, also after a restart. */
const storedSourceSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('folder'), folder: z.string() }),
  /** In the store and nowhere else. */
  z.strictObject({ kind: z.literal('upload') }),
  /** In the store, or to be fetched again. */
  z.strictObject({ kind: z.literal('hub'), repo: z.string(), commit: z.string() }),
])

export type StoredSource = z.infer<typeof storedSourceSchema>

/** `registrations/<id>.json`, of a tenant's `<tenant>@<id>.json`: what a restart needs to serve the adapter again without reading it. */
const recordSchema = z.strictObject({
  version: z.literal(1),
  id: qualifiedIdSchema,
  owner: addressSchema.nullable(),
  datanet: datanetNameSchema.nullable(),
  isPinned: z.boolean(),
  /** Of the base model that it was checked against. */
  modelDigest: digestSchema,
  digest: digestSchema,
  sizeBytes: z.int().positive(),
  source: storedSourceSchema,
})

export type AdapterRecord = z.infer<typeof recordSchema>

/**
 * The adapters on this machine's disk that are not the operator's own: by content, within a byte
 * budget, and the registrations made by API. Files appear and go by one rename; what a crash leaves
 * behind is in `incoming/`, which each start empties.
 */
export interface AdapterStore {
  /** Registrations as the start found them; those of uploads use their contents already. */
  readonly records: readonly AdapterRecord[]
  readonly saveRecord: (record: AdapterRecord) => Promise<void>
  readonly removeRecord: (id: string) => Promise<void>
  /** An empty folder to write an adapter into; `adopt` or `discard` takes it. */
  readonly stage: () => Promise<string>
  readonly discard: (folder: string) => Promise<void>
  /**
   * Makes a staged folder the content of a digest, and the caller one that uses it. What nobody uses
   * and the hub still has goes for it. Throws `adapter_rejected` when it does not fit.
   */
  readonly adopt: (folder: string, digest: Digest) => Promise<void>
  /** False: it is not here. */
  readonly use: (digest: Digest) => boolean
  /** Of what is not here, it does nothing. */
  readonly release: (digest: Digest) => void
  readonly has: (digest: Digest) => boolean
  /** Deletes a content that nobody uses any more. */
  readonly remove: (digest: Digest) => Promise<void>
  readonly pathOf: (digest: Digest) => string
  readonly usedBytes: () => number
  /** The one who is told after a content came or went. */
  readonly watch: (listener: (digest: Digest) => void) => void
}

export interface AdapterStoreOptions {
  readonly dir: string
  readonly budgetBytes: number
}

/** Opens the store, making it where it is missing. Rejects with ModelFileError for a record that cannot be read. */
export async function openAdapterStore({
  dir,
  budgetBytes,
}: AdapterStoreOptions): Promise<AdapterStore> {
  const folders = {
    content: join(dir, 'content'),
    incoming: join(dir, 'incoming'),
    records: join(dir, 'registrations'),
  }
  await rm(folders.incoming, { recursive: true, force: true })
  for (const folder of Object.values(folders)) await mkdir(folder, { recursive: true })
  const records = await readRecords(folders.records)
  const budget = new ByteBudget(budgetBytes)
  const pathOf = (digest: Digest) => join(folders.content, digest)
  let onChange: (digest: Digest) => void = () => undefined
  const createPath = () => join(folders.incoming, randomUUID())
  const present = await admitContents(budget, folders.content, records)
  /** Renames happen one after another. */
  let tail: Promise<unknown> = Promise.resolve()
  const enqueue = <Result>(run: () => Promise<Result>): Promise<Result> => {
    const done = tail.then(run)
    tail = done.catch(() => undefined) // the caller of this one is told
    return done
  }

  const drop = async (digest: Digest) => {
    present.delete(digest)
    const grave = createPath()
    await rename(pathOf(digest), grave)
    await rm(grave, { recursive: true })
    onChange(digest)
  }

  const adopt = async (folder: string, digest: Digest) => {
    if (present.has(digest)) {
      budget.use(digest)
      await rm(folder, { recursive: true })
      return
    }
    const sizeBytes = await measureFolder(folder)
    const evicted = budget.admit(digest, sizeBytes)
    if (evicted === null) {
      const room = `at most ${budgetBytes} bytes of adapters are stored`
      throw rejectFile(WEIGHTS_FILE, `does not fit: ${room}, and none of them can go`)
    }
    try {
      for (const victim of evicted) await drop(victim as Digest) // keys of the budget are digests
      await rename(folder, pathOf(digest))
    } catch (error) {
      budget.remove(digest)
      throw error
    }
    present.add(digest)
    onChange(digest)
  }

  return {
    records,
    saveRecord: async (record) => {
      const path = createPath()
      await writeDurably(path, `${JSON.stringify(record, null, 2)}\n`)
      await rename(path, join(folders.records, `${toFileName(record.id)}.json`))
    },
    removeRecord: (id) => rm(join(folders.records, `${toFileName(id)}.json`), { force: true }),
    stage: async () => {
      const folder = createPath()
      await mkdir(folder)
      return folder
    },
    discard: (folder) => rm(folder, { recursive: true, force: true }),
    adopt: (folder, digest) => enqueue(() => adopt(folder, digest)),
    use: (digest) => {
      if (!present.has(digest)) return false
      budget.use(digest)
      return true
    },
    release: (digest) => {
      if (present.has(digest)) budget.release(digest)
    },
    has: (digest) => present.has(digest),
    remove: (digest) =>
      enqueue(async () => {
        if (!present.has(digest) || !budget.isIdle(digest)) return
        budget.remove(digest)
        await drop(digest)
      }),
    pathOf,
    usedBytes: () => budget.usedBytes,
    watch: (listener) => {
      onChange = listener
    },
  }
}

async function writeDurably(path: string, text: string): Promise<void> {
  await using file = await open(path, 'wx')
  await file.writeFile(text)
  await file.sync()
}

async function readRecords(folder: string): Promise<readonly AdapterRecord[]> {
  const records: AdapterRecord[] = []
  for (const name of (await readdir(folder)).sort()) {
    const path = join(folder, name)
    try {
      records.push(recordSchema.parse(JSON.parse(await readFile(path, 'utf8'))))
    } catch (cause) {
      throw new ModelFileError(`${path} is not a valid registration of an adapter.`, { cause })
    }
  }
  return records
}

/** Takes in the contents that a record names, each upload with one use a record, and deletes the others. */
async function admitContents(
  budget: ByteBudget,
  folder: string,
  records: readonly AdapterRecord[],
): Promise<Set<Digest>> {
  const present = new Set<Digest>()
  const uploads = records.filter(({ source }) => source.kind === 'upload')
  const fetched = records.filter(({ source }) => source.kind === 'hub')
  const names = new Set(await readdir(folder))
  for (const { digest, source } of [...uploads, ...fetched]) {
    const path = join(folder, digest)
    if (!names.delete(digest)) {
      if (source.kind === 'upload' && present.has(digest)) budget.use(digest)
      continue
    }
    if (budget.admit(digest, await measureFolder(path)) !== null) {
      present.add(digest)
      if (source.kind === 'hub') budget.release(digest)
    } else if (source.kind === 'upload') {
      throw new ModelFileError('The uploaded adapters take more than ADAPTER_DISK_BYTES.')
    } else {
      names.add(digest)
    }
  }
  for (const name of names) await rm(join(folder, name), { recursive: true })
  return present
}

async function measureFolder(folder: string): Promise<number> {
  const names = await readdir(folder)
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size))
  return sizes.reduce((sum, size) => sum + size, 0)
}
