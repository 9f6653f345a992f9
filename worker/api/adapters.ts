import { z } from 'zod'
import {
  type AdapterListing,
  adapterIdSchema,
  adapterListingSchema,
} from '../../protocol/adapter-listing.ts'
import { deleteBackendAdapter, listBackendAdapters } from '../dispatch/adapter-client.ts'
import {
  type AdapterHost,
  type Copy,
  findAdapterHosts,
  gatherCopies,
  listPossibleHosts,
  pickRefusal,
  type SpreadAdapter,
} from '../dispatch/adapter-copies.ts'
import type { TenantCaller } from '../dispatch/tenant-call.ts'
import { ApiError } from '../errors.ts'
import { describeError } from '../log.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'

const listing = adapterListingSchema.shape

/** Why a backend has not what was asked of it. */
export const copyErrorSchema = z
  .object({ code: z.string(), message: z.string(), param: z.string().nullable() })
  .nullable()

export const adapterSchema = z
  .strictObject({
    id: listing.id,
    object: listing.object,
    base_model: listing.base_model,
    digest: listing.digest.describe('SHA-256 of what it computes; null while nothing serves.'),
    size_bytes: listing.size_bytes.describe('In memory.'),
    owner: listing.owner.describe('Who is paid the adapter owner’s share.'),
    datanet: listing.datanet,
    source: listing.source,
    backends: z
      .array(
        z.strictObject({
          id: z.string(),
          state: z
            .enum([...listing.state.options, 'absent', 'unreachable'])
            .describe('`absent`: upload it again, and this backend has it too.'),
          digest: listing.digest,
          error: copyErrorSchema,
          requests_in_flight: z.int(),
          requests_waiting: z.int(),
        }),
      )
      .describe('Those that serve the base model, each with what it has.'),
  })
  .meta({ id: 'Adapter', description: 'An adapter of the account’s.' })

export const adapterListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(adapterSchema) })
  .meta({ id: 'AdapterList' })

export const deletedAdapterSchema = z
  .strictObject({ id: z.string(), object: z.literal('adapter'), deleted: z.literal(true) })
  .meta({ id: 'DeletedAdapter' })

/** `GET /v1/adapters`: the account's own, each with its state on every backend. */
export async function listAdapters(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:read')
  const data = (await findAdapters(c)).map(composeAdapter)
  return c.json({ object: 'list', data } satisfies z.input<typeof adapterListSchema>)
}

/** `GET /v1/adapters/{id}` */
export async function getAdapter(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:read')
  const id = readId(c)
  const found = (await findAdapters(c)).find((adapter) => adapter.id === id)
  if (found === undefined) throw unknownAdapter()
  return c.json(composeAdapter(found))
}

/**
 * `DELETE /v1/adapters/{id}`, on all backends. Answers when it is gone from each; 503 when one was
 * not heard, so that it is asked for again.
 */
export async function deleteAdapter(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:write')
  const id = readId(c)
  const { config, catalogue } = c.var.services
  const backends = listPossibleHosts(config.BACKENDS, await catalogue.readFresh())
  const deleted = await Promise.all(
    backends.map((backend) =>
      deleteBackendAdapter(backend, callerOf(c), id).catch((error) => toApiError(c, error)),
    ),
  )
  await catalogue.refresh()
  const failures = deleted.filter((each) => each instanceof ApiError)
  const refusal = pickRefusal(failures)
  if (refusal !== null) throw refusal
  if (!deleted.includes(true)) throw unknownAdapter()
  return c.json({ id, object: 'adapter', deleted: true } satisfies z.input<
    typeof deletedAdapterSchema
  >)
}

/** All backends that adapters can be on, asked for just now. Throws `no_backend` where there are none. */
export async function findHosts(c: AppContext): Promise<readonly AdapterHost[]> {
  const { config, catalogue } = c.var.services
  const hosts = findAdapterHosts(config.BACKENDS, await catalogue.readFresh())
  if (hosts.length === 0) throw new ApiError('no_backend')
  return hosts
}

export function callerOf(c: AppContext): TenantCaller {
  const { requestId, caller, services } = c.var
  const { accountId } = caller
  return { requestId, accountId, timeoutMs: services.config.UPSTREAM_SILENCE_MS }
}

/** What a call to one backend failed with; what is no refusal is logged. */
export function toApiError(c: AppContext, error: unknown): ApiError {
  if (error instanceof ApiError) return error
  c.var.services.log('backend_failed', { requestId: c.var.requestId, ...describeError(error) })
  return new ApiError('upstream_error', { cause: error })
}

export function composeAdapter({ id, baseModel, copies }: SpreadAdapter) {
  const held = copies.flatMap(({ copy }) => (copy.outcome === 'held' ? [copy.listing] : []))
  const shown = held.find(({ digest }) => digest !== null) ?? held[0]
  return {
    id,
    object: 'adapter',
    base_model: baseModel,
    digest: shown?.digest ?? null,
    size_bytes: shown?.size_bytes ?? null,
    owner: shown?.owner ?? null,
    datanet: shown?.datanet ?? null,
    source: shown?.source ?? null,
    backends: copies.map(({ backendId, copy }) => ({ id: backendId, ...composeCopy(copy) })),
  } satisfies z.input<typeof adapterSchema>
}

function composeCopy(copy: Copy<AdapterListing>) {
  const idle = { digest: null, error: null, requests_in_flight: 0, requests_waiting: 0 }
  switch (copy.outcome) {
    case 'held': {
      const { state, digest, error, requests_in_flight, requests_waiting } = copy.listing
      return { state, digest, error, requests_in_flight, requests_waiting }
    }
    case 'absent':
      return { ...idle, state: 'absent' as const }
    case 'failed': {
      return { ...idle, ...composeFailure(copy.error) }
    }
  }
}

/** What is said of a backend that did not do what it was asked. */
export function composeFailure({ code, message, param }: ApiError) {
  const isUnheard = code === 'no_backend' || code === 'upstream_error'
  const state = isUnheard ? ('unreachable' as const) : ('failed' as const)
  return { state, error: { code, message, param } }
}

/** The account's adapters, by what each backend lists. Throws when none answers. */
async function findAdapters(c: AppContext): Promise<readonly SpreadAdapter[]> {
  const hosts = await findHosts(c)
  const lists = new Map(
    await Promise.all(
      uniqueBackends(hosts).map(async (backend) => {
        const listed = await listBackendAdapters(backend, callerOf(c)).catch((error) =>
          toApiError(c, error),
        )
        return [backend.id, listed ?? []] as const
      }),
    ),
  )
  const answers = hosts.map((host) => ({ host, listed: lists.get(host.backend.id) ?? [] }))
  const errors = answers.flatMap(({ listed }) => (listed instanceof ApiError ? [listed] : []))
  if (errors.length === answers.length) throw pickRefusal(errors) ?? new ApiError('no_backend')
  return gatherCopies(answers)
}

/** Each backend once, whatever it serves. */
export function uniqueBackends(hosts: readonly AdapterHost[]) {
  return [...new Map(hosts.map(({ backend }) => [backend.id, backend])).values()]
}

/** An id that could be none is none: it never becomes a part of a backend's path. */
function readId(c: AppContext): string {
  const id = adapterIdSchema.safeParse(c.req.param('id'))
  if (id.success) return id.data
  throw unknownAdapter()
}

function unknownAdapter(): ApiError {
  return new ApiError('not_found', { message: 'There is no adapter of this id.', param: 'id' })
}
