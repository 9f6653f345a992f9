import {
  type DatanetListing,
  datanetListingSchema,
  datanetListSchema,
} from '../../protocol/datanet-listing.ts'
import type { BackendAddress } from './backend-client.ts'
import {
  callForTenant,
  readTenantAnswer,
  type TenantBody,
  type TenantCaller,
} from './tenant-call.ts'

/** The account's datanets on a backend; none where the server knows no datanets. */
export async function listBackendDatanets(
  backend: BackendAddress,
  caller: TenantCaller,
): Promise<readonly DatanetListing[]> {
  const response = await callForTenant(backend, caller, { method: 'GET', path: '/v1/datanets' })
  if (response.status === 404 || response.status === 405) return []
  return datanetListSchema.parse(await readTenantAnswer(response)).data
}

/** With its contributors; null: it is not there. */
export async function findBackendDatanet(
  backend: BackendAddress,
  caller: TenantCaller,
  id: string,
): Promise<DatanetListing | null> {
  const response = await callForTenant(backend, caller, { method: 'GET', path: pathOf(id) })
  if (response.status === 404) return null
  return datanetListingSchema.parse(await readTenantAnswer(response))
}

/** Throws the ApiError that says why it was not kept. */
export async function keepBackendDatanet(
  backend: BackendAddress,
  caller: TenantCaller,
  body: TenantBody,
): Promise<DatanetListing> {
  const call = { method: 'POST', path: '/v1/datanets', ...body } as const
  return datanetListingSchema.parse(
    await readTenantAnswer(await callForTenant(backend, caller, call)),
  )
}

/** False: it was not there. Throws `datanet_in_use` while an adapter names it. */
export async function deleteBackendDatanet(
  backend: BackendAddress,
  caller: TenantCaller,
  id: string,
): Promise<boolean> {
  const response = await callForTenant(backend, caller, { method: 'DELETE', path: pathOf(id) })
  if (response.status === 404) return false
  await readTenantAnswer(response)
  return true
}

function pathOf(id: string): string {
  return `/v1/datanets/${encodeURIComponent(id)}`
}
