import { z } from 'zod'
import { adapterIdSchema } from '../../protocol/adapter-listing.ts'
import {
  type DatanetListing,
  MAX_CONTRIBUTORS_BYTES,
  MAX_DATANET_BYTES,
} from '../../protocol/datanet-listing.ts'
import { qualifyName, splitName } from '../adapters/owned-name.ts'
import { CONTRIBUTORS_FILE, DATANET_FILE } from '../attribution/datanet.ts'
import {
  type DatanetStore,
  rejectDatanet,
  type StoredDatanet,
} from '../attribution/datanet-store.ts'
import { BackendError } from '../errors.ts'
import { parseFields } from './json-body.ts'
import { receiveUpload } from './receive-upload.ts'
import type { BackendContext, Services } from './services.ts'
import { requireOwner } from './tenant.ts'

const uploadSchema = z.strictObject({ id: adapterIdSchema })

/**
 * `POST /v1/datanets`: keeps a tenant's datanet, sent as `multipart/form-data`. Another content takes
 * an id only while no adapter of the tenant's names it.
 */
export async function keepDatanet(c: BackendContext, services: Services): Promise<Response> {
  const tenant = requireTenant(c)
  const store = requireStore(services)
  const folder = await store.stage()
  try {
    const maxBytes = new Map([
      [DATANET_FILE, MAX_DATANET_BYTES],
      [CONTRIBUTORS_FILE, MAX_CONTRIBUTORS_BYTES],
    ])
    const received = await receiveUpload(c.req.raw, { folder, maxBytes, reject: rejectDatanet })
    const { id: name } = parseFields(uploadSchema, received)
    const id = qualifyName(tenant, name)
    const kept = await store.keep(id, folder, () => requireUnused(services, id))
    return c.json(formatDatanet(kept, services), 201)
  } finally {
    await store.discard(folder)
  }
}

/** `GET /v1/datanets`: the tenant's own. */
export function listDatanets(c: BackendContext, services: Services): Response {
  const tenant = requireTenant(c)
  const own = (services.datanets?.list() ?? []).filter(({ id }) => splitName(id).tenant === tenant)
  return c.json({ object: 'list', data: own.map((datanet) => formatDatanet(datanet, services)) })
}

/** `GET /v1/datanets/{id}`, with its contributors. */
export async function findDatanet(c: BackendContext, services: Services): Promise<Response> {
  const found = services.datanets?.find(pathId(c))
  if (!services.datanets || !found) throw unknownDatanet()
  const contributors = await services.datanets.readContributors(found.id)
  return c.json({ ...formatDatanet(found, services), contributors })
}

/** `DELETE /v1/datanets/{id}`: refused while an adapter names it. */
export async function deleteDatanet(c: BackendContext, services: Services): Promise<Response> {
  const id = pathId(c)
  if (!(await services.datanets?.remove(id, () => requireUnused(services, id)))) {
    throw unknownDatanet()
  }
  return c.json({ id: splitName(id).name, object: 'datanet', deleted: true })
}

/** The operator's datanets are folders of DATANETS_DIR, not ours to change. */
function requireTenant(c: BackendContext): string {
  const tenant = requireOwner(c)
  if (tenant !== null) return tenant
  throw new BackendError('invalid_request', 'Datanets are sent and read for a tenant.')
}

function requireStore({ datanets }: Services): DatanetStore {
  if (datanets) return datanets
  throw rejectDatanet('id', 'cannot be kept: this server has no ADAPTER_STORE_DIR')
}

function requireUnused({ adapters }: Services, id: string): void {
  const { tenant, name } = splitName(id)
  const users = adapters.listByDatanet(tenant, name)
  if (users.length === 0) return
  const message = `Adapters name the datanet: ${users.slice(0, 10).join(', ')}. Delete them first.`
  throw new BackendError('datanet_in_use', message, { param: 'id' })
}

function pathId(c: BackendContext): string {
  return qualifyName(requireTenant(c), c.req.param('id') ?? '')
}

function unknownDatanet(): BackendError {
  return new BackendError('not_found', 'There is no datanet of this id.', { param: 'id' })
}

function formatDatanet(datanet: StoredDatanet, { adapters }: Services): DatanetListing {
  const { tenant, name } = splitName(datanet.id)
  return {
    id: name,
    object: 'datanet',
    tenant: tenant ?? '',
    digest: datanet.digest,
    size_bytes: datanet.sizeBytes,
    datum_count: datanet.datumCount,
    contributor_count: datanet.contributorCount,
    licences: [...datanet.licences],
    created_at_ms: datanet.createdAtMs,
    adapters: [...adapters.listByDatanet(tenant, name)],
  }
}
