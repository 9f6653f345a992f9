import { open, readdir, realpath, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve, sep } from 'node:path'
import { z } from 'zod'
import { adapterIdSchema } from '../../protocol/adapter-listing.ts'
import { type Address, addressSchema } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'
import { OWNING_TENANT, qualifyName, type Tenant } from './owned-name.ts'

/** `name`, or `tenant/name` of what a tenant registered. */
export const qualifiedIdSchema = z.string().refine((id) => {
  const [name = '', tenant, ...rest] = id.split('/').reverse()
  const isTenant = tenant === undefined || OWNING_TENANT.test(tenant)
  return adapterIdSchema.safeParse(name).success && isTenant && rest.length === 0
})

/** A folder of DATANETS_DIR, or a datanet of the tenant's. */
export const datanetNameSchema = adapterIdSchema

export const CONFIG_FILE = 'adapter_config.json'
export const WEIGHTS_FILE = 'adapter_model.safetensors'
export const MANIFEST_FILE = 'tallygate.json'

/** `tallygate.json` beside the PEFT files: who is paid for the adapter, and what it was trained on. */
const manifestSchema = z.strictObject({
  id: adapterIdSchema.optional(),
  owner: addressSchema.optional(),
  datanet: datanetNameSchema.optional(),
})

/** Where an adapter that is to be registered lies. */
export type AdapterSource =
  /** The real path of a PEFT directory below the adapters directory. */
  | { readonly kind: 'folder'; readonly folder: string }
  /** Files that were sent to us, in a folder of the store's that nobody else knows. */
  | { readonly kind: 'upload'; readonly folder: string }
  /** A repository of the hub, at a branch, tag or commit. */
  | { readonly kind: 'hub'; readonly repo: string; readonly revision: string }

/** A content under an id. */
export interface AdapterRegistration {
  /** Qualified: {@link qualifyName}. */
  readonly id: string
  readonly owner: Address | null
  readonly datanet: string | null
  /** Kept in memory, used or not. */
  readonly isPinned: boolean
  readonly source: AdapterSource
}

export interface RegistrationFields {
  /** Absent or null: the operator. */
  readonly tenant?: Tenant | undefined
  readonly id?: string | undefined
  readonly owner?: Address | undefined
  readonly datanet?: string | undefined
  readonly pinned?: boolean | undefined
}

export const MAX_JSON_BYTES = 1_000_000

/**
 * What registering `path` (relative to the root, or absolute in it) means; fields that the caller
 * leaves out come from `tallygate.json`, and the id at last from the folder's name. Throws
 * `adapter_rejected` when the path leads out of the root, also by links, or is no folder.
 */
export async function planRegistration(
  path: string,
  fields: RegistrationFields,
  { rootDir, baseId }: { readonly rootDir: string; readonly baseId: string },
): Promise<AdapterRegistration> {
  const root = await realpath(rootDir)
  const folder = path.includes('\0') ? null : await realpath(resolve(root, path)).catch(() => null)
  if (folder === null || !folder.startsWith(root + sep) || !(await stat(folder)).isDirectory()) {
    throw rejectFile('path', 'is no folder of the adapters directory')
  }
  return nameRegistration(
    { ...(await readManifest(folder, root)), ...dropAbsent(fields) },
    { source: { kind: 'folder', folder }, baseId, defaultId: basename(folder) },
  )
}

/** What uploaded files mean, as {@link planRegistration}; without an id there is none to take. */
export async function planUpload(
  folder: string,
  fields: RegistrationFields,
  baseId: string,
): Promise<AdapterRegistration> {
  return nameRegistration(
    { ...(await readManifest(folder, await realpath(dirname(folder)))), ...dropAbsent(fields) },
    { source: { kind: 'upload', folder }, baseId, defaultId: '' },
  )
}

/** What a repository of the hub means; the id is at last the repository's name without its owner. */
export function planHubRegistration(
  { repo, revision }: { readonly repo: string; readonly revision: string },
  fields: RegistrationFields,
  baseId: string,
): AdapterRegistration {
  return nameRegistration(fields, {
    source: { kind: 'hub', repo, revision },
    baseId,
    defaultId: basename(repo),
  })
}

function nameRegistration(
  fields: RegistrationFields,
  options: { readonly source: AdapterSource; readonly baseId: string; readonly defaultId: string },
): AdapterRegistration {
  const id = adapterIdSchema.safeParse(fields.id ?? options.defaultId)
  if (!id.success) throw rejectFile('id', `is not given, and its name is no valid one`)
  if (id.data === options.baseId) throw rejectFile('id', 'is that of the base model')
  return {
    id: qualifyName(fields.tenant ?? null, id.data),
    owner: fields.owner ?? null,
    datanet: fields.datanet ?? null,
    isPinned: fields.pinned ?? false,
    source: options.source,
  }
}

function dropAbsent(fields: RegistrationFields): RegistrationFields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
}

/** The JSON value in a file of an adapter's folder. Throws `adapter_rejected`. */
export async function readJsonFile(
  folder: string,
  name: string,
  rootDir: string,
): Promise<unknown> {
  const bytes = await readConfinedFile(folder, name, { rootDir, maxBytes: MAX_JSON_BYTES })
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw rejectFile(name, 'is not valid JSON', cause)
  }
}

/** Reads a regular file of an adapter's folder that lies, links followed, under the root. Throws `adapter_rejected`. */
export async function readConfinedFile(
  folder: string,
  name: string,
  { rootDir, maxBytes }: { readonly rootDir: string; readonly maxBytes: number },
): Promise<Uint8Array> {
  const root = await realpath(rootDir)
  const path = await realpath(join(folder, name)).catch(() => null)
  if (path === null || !path.startsWith(root + sep)) {
    throw rejectFile(name, 'leads out of the adapters directory')
  }
  const stats = await stat(path)
  if (!stats.isFile()) throw rejectFile(name, 'is not a file')
  if (stats.size > maxBytes) {
    throw rejectFile(name, `has ${stats.size} bytes, and at most ${maxBytes} are read`)
  }
  return readWhole(path, stats.size)
}

/** In one read: `readFile` takes half a megabyte at a time. */
async function readWhole(path: string, sizeBytes: number): Promise<Uint8Array> {
  const bytes = Buffer.allocUnsafeSlow(sizeBytes)
  await using file = await open(path)
  let end = 0
  while (end < sizeBytes) {
    const { bytesRead } = await file.read(bytes, end, sizeBytes - end)
    if (bytesRead === 0) throw rejectFile(basename(path), 'became shorter while it was read')
    end += bytesRead
  }
  return bytes
}

/** `adapter_rejected` for a file or field of an adapter. */
export function rejectFile(param: string, why: string, cause?: unknown): BackendError {
  return new BackendError('adapter_rejected', `The adapter's '${param}' ${why}.`, { param, cause })
}

async function readManifest(folder: string, rootDir: string) {
  if (!(await readdir(folder)).includes(MANIFEST_FILE)) return {}
  const parsed = manifestSchema.safeParse(await readJsonFile(folder, MANIFEST_FILE, rootDir))
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw rejectFile(MANIFEST_FILE, `is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
}
