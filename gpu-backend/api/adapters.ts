import { z } from 'zod'
import { addressSchema } from '../../protocol/digest.ts'
import { adapterIdSchema, datanetNameSchema } from '../adapters/adapter-folder.ts'
import type { AdapterEntry } from '../adapters/adapter-registry.ts'
import type { StoredSource } from '../adapters/adapter-store.ts'
import { hubRepoSchema, hubRevisionSchema } from '../adapters/hub-client.ts'
import { BackendError } from '../errors.ts'
import { receiveUpload } from './adapter-upload.ts'
import { parseFields, readJsonBody } from './json-body.ts'
import type { BackendContext, Services } from './services.ts'

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
 */
export async function registerAdapter(c: BackendContext, services: Services): Promise<Response> {
  const isUpload = /^multipart\/form-data\b/i.test(c.req.header('content-type') ?? '')
  const entry = isUpload ? await registerUpload(c, services) : await registerNamed(c, services)
  return c.json(formatEntry(entry), 201)
}

async function registerNamed(c: BackendContext, services: Services): Promise<AdapterEntry> {
  const { adapterIntake, maxBodyBytes } = services
  const fields = await readJsonBody(c, registerSchema, maxBodyBytes)
  const { path, repo, revision = 'main', ...named } = fields
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
  const folder = await adapterIntake.stage()
  try {
    const { maxFileBytes } = adapterIntake
    const received = await receiveUpload(c.req.raw, { folder, maxFileBytes })
    const fields = parseFields(uploadSchema, received)
    const registration = await adapterIntake.planUpload(folder, fields)
    return await adapters.register(registration, { isKept: true })
  } finally {
    await adapterIntake.discard(folder)
  }
}

/** `GET /v1/adapters`: all that were asked for, with their states. */
export function listAdapters(c: BackendContext, services: Services): Response {
  return c.json({ object: 'list', data: services.adapters.list().map(formatEntry) })
}

/** `GET /v1/adapters/{id}` */
export function findAdapter(c: BackendContext, services: Services): Response {
  const entry = services.adapters.find(pathId(c))
  if (entry) return c.json(formatEntry(entry))
  throw unknownAdapter()
}

/** `DELETE /v1/adapters/{id}`: answers when the last request in flight has ended. */
export async function unregisterAdapter(c: BackendContext, services: Services): Promise<Response> {
  const id = pathId(c)
  if (!(await services.adapters.unregister(id))) throw unknownAdapter()
  return c.json({ id, object: 'adapter', deleted: true })
}

function pathId(c: BackendContext): string {
  return c.req.param('id') ?? ''
}

function unknownAdapter(): BackendError {
  return new BackendError('not_found', 'There is no adapter of this id.', { param: 'id' })
}

function formatEntry({ id, version, ...status }: AdapterEntry) {
  const { state, error, events, useCount, waitingCount } = status
  return {
    id,
    object: 'adapter',
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
