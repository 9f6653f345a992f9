import { z } from 'zod'
import { type AdapterListing, adapterIdSchema } from '../../protocol/adapter-listing.ts'
import { addressSchema } from '../../protocol/digest.ts'
import {
  CONFIG_FILE,
  datanetNameSchema,
  MANIFEST_FILE,
  MAX_JSON_BYTES,
  type RegistrationFields,
  rejectFile,
  WEIGHTS_FILE,
} from '../adapters/adapter-folder.ts'
import type { AdapterEntry } from '../adapters/adapter-registry.ts'
import type { StoredSource } from '../adapters/adapter-store.ts'
import { hubRepoSchema, hubRevisionSchema } from '../adapters/hub-client.ts'
import { qualifyName, splitName, type Tenant } from '../adapters/owned-name.ts'
import { BackendError } from '../errors.ts'
import { parseFields, readJsonBody } from './json-body.ts'
import { receiveUpload } from './receive-upload.ts'
import type { BackendContext, Services } from './services.ts'
import { requireOwner } from './tenant.ts'

const fieldShape = {
  id: adapterIdSchema.optional(),
  owner: addressSchema.optional(),
  datanet: datanetNameSchema.optional(),
  /** Kept in memory, used or not. */
  pinned: z.boolean().optional(),
}

/**
 * `POST /v1/adapters` in JSON: a folder of the adapters directory, or a repository of the hub. What
 * is left out comes from the folder's `tallygate.json`.
 */
const registerSchema = z
  .strictObject({
    ...fieldShape,
    path: z.string().min(1).max(4096).optional(),
    repo: hubRepoSchema.optional(),
    revision: hubRevisionSchema.optional(),
  })
  .refine(({ path, repo }) => (path === undefined) !== (repo === undefined), {
    path: ['path'],
    message: 'exactly one of path and repo must be given',
  })

/** The fields beside the files of an upload. */
const uploadSchema = z.strictObject({
  ...fieldShape,
  pinned: z
    .enum(['true', 'false'])
    .transform((text) => text === 'true')
    .optional(),
})

/**
 * Registers an adapter while serving, and answers when it can be named in requests: checked byte by
 * byte, but in memory only if it is pinned. A `multipart/form-data` body brings the files themselves.
 * With a tenant, the adapter is that tenant's alone.
 */
export async function registerAdapter(c: BackendContext, services: Services): Promise<Response> {
  const isUpload = /^multipart\/form-data\b/i.test(c.req.header('content-type') ?? '')
  const entry = isUpload ? await registerUpload(c, services) : await registerNamed(c, services)
  return c.json(formatEntry(entry, services), 201)
}

async function registerNamed(c: BackendContext, services: Services): Promise<AdapterEntry> {
  const { adapterIntake, maxBodyBytes } = services
  const fields = await readJsonBody(c, registerSchema, maxBodyBytes)
  const { path, repo, revision = 'main', ...rest } = fields
  const tenant = requireOwner(c)
  if (tenant !== null && path !== undefined) throw operatorsOnly('path')
  const named = ownFields(rest, tenant)
  const registration =
    repo === undefined
      ? await adapterIntake.planFolder(path ?? '', named)
      : adapterIntake.planHub({ repo, revision }, named)
  return services.adapters.register(registration, { isKept: true })
}

async function registerUpload(
  c: BackendContext,
  { adapters, adapterIntake }: Services,
): Promise<AdapterEntry> {
  const tenant = requireOwner(c)
  const folder = await adapterIntake.stage()
  try {
    const maxBytes = new Map([
      [CONFIG_FILE, MAX_JSON_BYTES],
      [WEIGHTS_FILE, adapterIntake.maxFileBytes],
      [MANIFEST_FILE, MAX_JSON_BYTES],
    ])
    const received = await receiveUpload(c.req.raw, { folder, maxBytes, reject: rejectFile })
    const fields = ownFields(parseFields(uploadSchema, received), tenant)
    const registration = await adapterIntake.planUpload(folder, fields)
    return await adapters.register(registration, { isKept: true })
  } finally {
    await adapterIntake.discard(folder)
  }
}

/** What a tenant may say of its adapter. Memory that others could use is not given away by it. */
function ownFields(fields: RegistrationFields, tenant: Tenant): RegistrationFields {
  if (tenant !== null && fields.pinned !== undefined) throw operatorsOnly('pinned')
  return { ...fields, tenant }
}

function operatorsOnly(param: string): BackendError {
  return new BackendError('invalid_request', `'${param}': is for the operator alone`, { param })
}

/** `GET /v1/adapters`: the tenant's own, without a tenant all, with their states. */
export function listAdapters(c: BackendContext, services: Services): Response {
  const tenant = requireOwner(c)
  const entries = services.adapters
    .list()
    .filter(({ id }) => tenant === null || splitName(id).tenant === tenant)
  return c.json({ object: 'list', data: entries.map((entry) => formatEntry(entry, services)) })
}

/** `GET /v1/adapters/{id}` */
export function findAdapter(c: BackendContext, services: Services): Response {
  const entry = services.adapters.find(pathId(c))
  if (entry) return c.json(formatEntry(entry, services))
  throw unknownAdapter()
}

/** `DELETE /v1/adapters/{id}`: answers when the last request in flight has ended. */
export async function unregisterAdapter(c: BackendContext, services: Services): Promise<Response> {
  if (!(await services.adapters.unregister(pathId(c)))) throw unknownAdapter()
  return c.json({ id: splitName(pathId(c)).name, object: 'adapter', deleted: true })
}

function pathId(c: BackendContext): string {
  return qualifyName(requireOwner(c), c.req.param('id') ?? '')
}

function unknownAdapter(): BackendError {
  return new BackendError('not_found', 'There is no adapter of this id.', { param: 'id' })
}

function formatEntry(
  { id, version, ...status }: AdapterEntry,
  { model }: Services,
): AdapterListing {
  const { state, error, events, useCount, waitingCount } = status
  return {
    id: splitName(id).name,
    object: 'adapter',
    tenant: splitName(id).tenant,
    base_model: model.id,
    state,
    error: error ? { code: error.code, message: error.message, param: error.param } : null,
    digest: version?.digest ?? null,
    size_bytes: version?.sizeBytes ?? null,
    owner: version?.owner ?? null,
    datanet: version?.datanet ?? null,
    pinned: version?.isPinned ?? false,
    source: version ? formatSource(version.source) : null,
    requests_in_flight: useCount,
    requests_waiting: waitingCount,
    events: events.map((event) => ({ state: event.state, at_ms: event.atMs })),
  }
}

/** Paths of this machine are nobody's business. */
function formatSource(source: StoredSource) {
  if (source.kind !== 'hub') return { kind: source.kind }
  return { kind: source.kind, repo: source.repo, commit: source.commit }
}
