import { z } from 'zod'
import { addressSchema } from '../../protocol/digest.ts'
import { adapterIdSchema, datanetNameSchema } from '../adapters/adapter-folder.ts'
import type { AdapterEntry } from '../adapters/adapter-registry.ts'
import { BackendError } from '../errors.ts'
import { readJsonBody } from './json-body.ts'
import type { BackendContext, Services } from './services.ts'

/** `POST /v1/adapters`. What is left out comes from the folder's `tallygate.json`. */
const registerSchema = z.strictObject({
  /** Folder of the adapters directory. */
  path: z.string().min(1).max(4096),
  id: adapterIdSchema.optional(),
  owner: addressSchema.optional(),
  datanet: datanetNameSchema.optional(),
})

/** Loads an adapter while serving and answers when it can be named in requests. */
export async function registerAdapter(c: BackendContext, services: Services): Promise<Response> {
  const fields = await readJsonBody(c, registerSchema, services.maxBodyBytes)
  const registration = await services.planAdapter(fields.path, fields)
  return c.json(formatEntry(await services.adapters.register(registration)), 201)
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

function formatEntry({ id, status, useCount }: AdapterEntry) {
  const version = status.state === 'failed' ? null : status.version
  return {
    id,
    object: 'adapter',
    state: status.state,
    error:
      status.state === 'failed'
        ? { code: status.error.code, message: status.error.message, param: status.error.param }
        : null,
    digest: version?.digest ?? null,
    size_bytes: version?.sizeBytes ?? null,
    owner: version?.owner ?? null,
    datanet: version?.datanet ?? null,
    requests_in_flight: useCount,
  }
}
