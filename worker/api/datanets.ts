import { z } from 'zod'
import { adapterIdSchema } from '../../protocol/adapter-listing.ts'
import {
  contributorsSchema,
  type DatanetListing,
  datanetListingSchema,
  MAX_CONTRIBUTORS_BYTES,
  MAX_DATANET_BYTES,
} from '../../protocol/datanet-listing.ts'
import {
  type BackendCopy,
  type Copy,
  listPossibleHosts,
  pickRefusal,
} from '../dispatch/adapter-copies.ts'
import type { BackendAddress } from '../dispatch/backend-client.ts'
import {
  deleteBackendDatanet,
  findBackendDatanet,
  keepBackendDatanet,
  listBackendDatanets,
} from '../dispatch/datanet-client.ts'
import { ApiError } from '../errors.ts'
import {
  callerOf,
  composeFailure,
  copyErrorSchema,
  findHosts,
  toApiError,
  uniqueBackends,
} from './adapters.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'
import { answerUpload, isUpload, spreadUpload } from './spread-upload.ts'

const listing = datanetListingSchema.shape

const datanetShape = {
  id: listing.id,
  object: listing.object,
  digest: listing.digest.describe('SHA-256 over the SHA-256 of both files.'),
  size_bytes: listing.size_bytes.describe('Of both files.'),
  datum_count: listing.datum_count,
  contributor_count: listing.contributor_count,
  licences: listing.licences,
  created_at_ms: listing.created_at_ms,
  adapters: listing.adapters.describe('Adapters of the account that name it, on any backend.'),
  backends: z
    .array(
      z.strictObject({
        id: z.string(),
        state: z
          .enum(['ready', 'absent', 'unreachable', 'failed'])
          .describe('`absent`: send it again, and this backend has it too.'),
        digest: listing.digest.nullable(),
        error: copyErrorSchema,
      }),
    )
    .describe('Those that adapters can be on, each with what it has.'),
}

export const datanetSchema = z
  .strictObject(datanetShape)
  .meta({ id: 'Datanet', description: 'What an adapter of the account’s was trained on.' })

export const datanetWithContributorsSchema = z
  .strictObject({ ...datanetShape, contributors: contributorsSchema })
  .meta({ id: 'DatanetWithContributors' })

export const datanetListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(datanetSchema) })
  .meta({ id: 'DatanetList' })

export const deletedDatanetSchema = z
  .strictObject({ id: z.string(), object: z.literal('datanet'), deleted: z.literal(true) })
  .meta({ id: 'DeletedDatanet' })

const fileSchema = z.string().meta({ format: 'binary' })

/** For the reader of the reference: the backend parses it. */
export const datanetFormSchema = z
  .strictObject({
    id: adapterIdSchema.describe('Unique in the account, which alone sees and uses it.'),
    'datanet.jsonl': fileSchema.describe(
      `An example a line: \`id\`, \`contributor\`, \`licence\`, and \`messages\` or \`text\`; at most ${MAX_DATANET_BYTES} bytes.`,
    ),
    'contributors.json': fileSchema.describe(
      `\`{"<contributor>": {"payee": "0x…", "name": "…"}}\`; at most ${MAX_CONTRIBUTORS_BYTES} bytes.`,
    ),
  })
  .meta({ id: 'DatanetUpload', description: 'Files go by their file names.' })

/** Both files, and what the form puts around them. */
const MAX_FORM_BYTES = MAX_DATANET_BYTES + MAX_CONTRIBUTORS_BYTES + 64 * 1024

/**
 * `POST /v1/datanets`: keeps a datanet of the account's on every backend that adapters can be on. 201
 * when one of them has it, with what each says; the refusal when none has.
 */
export async function createDatanet(c: AppContext): Promise<Response> {
  return answerUpload(c, async () => {
    await describeCaller(c, 'adapters:write')
    if (!isUpload(c)) throw new ApiError('unsupported_media_type')
    const backends = (await findDatanetHosts(c)).filter(({ draining }) => !draining)
    if (backends.length === 0) throw new ApiError('no_backend')
    const copies = await spreadUpload(c, backends, MAX_FORM_BYTES, (backend, body) =>
      copyFrom(c, backend, () => keepBackendDatanet(backend, callerOf(c), body)),
    )
    const [held] = listHeld(copies)
    if (held === undefined) throw refusalOf(copies)
    return c.json(composeDatanet(held, copies), 201)
  })
}

/** `GET /v1/datanets`: the account's own, each with what every backend has. */
export async function listDatanets(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:read')
  const answers = await Promise.all(
    (await findDatanetHosts(c)).map((backend) =>
      copyFrom(c, backend, () => listBackendDatanets(backend, callerOf(c))),
    ),
  )
  const lists = listHeld(answers)
  if (lists.length === 0) throw refusalOf(answers)
  const named = new Map(lists.flat().map((datanet) => [datanet.id, datanet]))
  const data = [...named.values()].map((datanet) =>
    composeDatanet(
      datanet,
      answers.map(({ backendId, copy }) => ({ backendId, copy: findIn(copy, datanet.id) })),
    ),
  )
  return c.json({ object: 'list', data } satisfies z.input<typeof datanetListSchema>)
}

/** `GET /v1/datanets/{id}`, with its contributors and whom they have paid. */
export async function getDatanet(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:read')
  const copies = await findCopies(c, await findDatanetHosts(c), readId(c))
  const [held] = listHeld(copies)
  if (held === undefined) throw refusalOf(copies)
  const { contributors = {} } = held
  return c.json({ ...composeDatanet(held, copies), contributors } satisfies z.input<
    typeof datanetWithContributorsSchema
  >)
}

/**
 * `DELETE /v1/datanets/{id}`, on all backends: on none while an adapter on any of them names it; 503
 * when one was not heard, so that it is asked for again.
 */
export async function deleteDatanet(c: AppContext): Promise<Response> {
  await describeCaller(c, 'adapters:write')
  const id = readId(c)
  const { config, catalogue } = c.var.services
  const backends = listPossibleHosts(config.BACKENDS, await catalogue.readFresh())
  const copies = await findCopies(c, backends, id)
  const failed = copies.flatMap(({ copy }) => (copy.outcome === 'failed' ? [copy.error] : []))
  const held = listHeld(copies)
  const users = [...new Set(held.flatMap(({ adapters }) => adapters))]
  if (users.length > 0) {
    const message = `Adapters name the datanet: ${users.slice(0, 10).join(', ')}. Delete them first.`
    throw new ApiError('datanet_in_use', { message, param: 'id' })
  }
  const refusal = pickRefusal(failed)
  if (refusal !== null) throw refusal
  if (held.length === 0) throw unknownDatanet()
  for (const backend of backends) await deleteBackendDatanet(backend, callerOf(c), id)
  return c.json({ id, object: 'datanet', deleted: true } satisfies z.input<
    typeof deletedDatanetSchema
  >)
}

async function findDatanetHosts(c: AppContext): Promise<readonly BackendAddress[]> {
  return uniqueBackends(await findHosts(c))
}

function findCopies(c: AppContext, backends: readonly BackendAddress[], id: string) {
  return Promise.all(
    backends.map((backend) =>
      copyFrom(c, backend, () => findBackendDatanet(backend, callerOf(c), id)),
    ),
  )
}

async function copyFrom<Listing>(
  c: AppContext,
  { id: backendId }: BackendAddress,
  ask: () => Promise<Listing | null>,
): Promise<BackendCopy<Listing>> {
  try {
    const listing = await ask()
    return { backendId, copy: listing === null ? ABSENT : { outcome: 'held', listing } }
  } catch (error) {
    return { backendId, copy: { outcome: 'failed', error: toApiError(c, error) } }
  }
}

const ABSENT = { outcome: 'absent' } as const

function findIn(copy: Copy<readonly DatanetListing[]>, id: string): Copy<DatanetListing> {
  if (copy.outcome !== 'held') return copy
  const found = copy.listing.find((datanet) => datanet.id === id)
  return found === undefined ? ABSENT : { outcome: 'held', listing: found }
}

function listHeld<Listing>(copies: readonly BackendCopy<Listing>[]): readonly Listing[] {
  return copies.flatMap(({ copy }) => (copy.outcome === 'held' ? [copy.listing] : []))
}

/** Why no backend has it. */
function refusalOf(copies: readonly BackendCopy<unknown>[]): ApiError {
  const failed = copies.flatMap(({ copy }) => (copy.outcome === 'failed' ? [copy.error] : []))
  return pickRefusal(failed) ?? unknownDatanet()
}

function composeDatanet(
  { tenant: _, contributors: __, ...shown }: DatanetListing,
  copies: readonly BackendCopy<DatanetListing>[],
) {
  const adapters = listHeld(copies).flatMap((held) => held.adapters)
  return {
    ...shown,
    adapters: [...new Set(adapters)].sort(),
    backends: copies.map(({ backendId: id, copy }) => ({ id, ...composeCopy(copy) })),
  } satisfies z.input<typeof datanetSchema>
}

function composeCopy(copy: Copy<DatanetListing>) {
  switch (copy.outcome) {
    case 'held':
      return { state: 'ready' as const, digest: copy.listing.digest, error: null }
    case 'absent':
      return { state: 'absent' as const, digest: null, error: null }
    case 'failed':
      return { digest: null, ...composeFailure(copy.error) }
  }
}

/** An id that could be none is none: it never becomes a part of a backend's path. */
function readId(c: AppContext): string {
  const id = adapterIdSchema.safeParse(c.req.param('id'))
  if (id.success) return id.data
  throw unknownDatanet()
}

function unknownDatanet(): ApiError {
  return new ApiError('not_found', { message: 'There is no datanet of this id.', param: 'id' })
}
