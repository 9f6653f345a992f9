import { readdir, readFile, realpath, stat } from 'node:fs/promises'
import { basename, join, resolve, sep } from 'node:path'
import { z } from 'zod'
import { type Address, addressSchema } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/
const NAME_RULE = 'must be 1 to 100 letters, digits, ".", "_" or "-"'

/** An adapter's own id: no `:`, which stands between base and adapter in `model`, and no `/`. */
export const adapterIdSchema = z.string().regex(NAME, NAME_RULE)

/** A folder of DATANETS_DIR. */
export const datanetNameSchema = z.string().regex(NAME, NAME_RULE)

/** `tallygate.json` beside the PEFT files: who is paid for the adapter, and what it was trained on. */
const manifestSchema = z.strictObject({
  id: adapterIdSchema.optional(),
  owner: addressSchema.optional(),
  datanet: datanetNameSchema.optional(),
})

/** A folder's content under an id. */
export interface AdapterRegistration {
  readonly id: string
  /** Real path of the PEFT directory. */
  readonly folder: string
  readonly owner: Address | null
  readonly datanet: string | null
}

export interface RegistrationFields {
  readonly id?: string | undefined
  readonly owner?: Address | undefined
  readonly datanet?: string | undefined
}

const MAX_JSON_BYTES = 1_000_000

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
  const names = await readdir(folder)
  const manifest = names.includes('tallygate.json') ? await readManifest(folder, root) : {}
  const id = adapterIdSchema.safeParse(fields.id ?? manifest.id ?? basename(folder))
  if (!id.success) throw rejectFile('id', `is not given, and the folder's name cannot be one`)
  if (id.data === baseId) throw rejectFile('id', 'is that of the base model')
  return {
    id: id.data,
    folder,
    owner: fields.owner ?? manifest.owner ?? null,
    datanet: fields.datanet ?? manifest.datanet ?? null,
  }
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
  return readFile(path)
}

/** `adapter_rejected` for a file or field of an adapter. */
export function rejectFile(param: string, why: string, cause?: unknown): BackendError {
  return new BackendError('adapter_rejected', `The adapter's '${param}' ${why}.`, { param, cause })
}

async function readManifest(folder: string, rootDir: string) {
  const parsed = manifestSchema.safeParse(await readJsonFile(folder, 'tallygate.json', rootDir))
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw rejectFile('tallygate.json', `is not valid: ${issue?.path.join('.')}: ${issue?.message}`)
}
