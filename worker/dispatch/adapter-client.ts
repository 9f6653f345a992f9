import {
  type AdapterListing,
  adapterListingSchema,
  adapterListSchema,
} from '../../protocol/adapter-listing.ts'
import { ApiError } from '../errors.ts'
import type { BackendAddress } from './backend-client.ts'
import {
  callForTenant,
  readTenantAnswer,
  type TenantBody,
  type TenantCaller,
} from './tenant-call.ts'

/** The account's adapters on a backend; null where the server knows no adapters. */
export async function listBackendAdapters(
  backend: BackendAddress,
  caller: TenantCaller,
): Promise<readonly AdapterListing[] | null> {
  const response = await callForTenant(backend, caller, { method: 'GET', path: '/v1/adapters' })
  if (response.status === 404 || response.status === 405) return null
  return adapterListSchema.parse(await readTenantAnswer(response)).data
}

/** Registers an adapter of the account's on a backend. Throws the ApiError that says why it was not. */
export async function registerBackendAdapter(
  backend: BackendAddress,
  caller: TenantCaller,
  body: TenantBody,
): Promise<AdapterListing> {
  const call = { method: 'POST', path: '/v1/adapters', ...body } as const
  return adapterListingSchema.parse(
    await readTenantAnswer(await callForTenant(backend, caller, call)),
  )
}

/** False: it was not there. Throws `adapter_in_use` while requests run on it; it goes when they end. */
export async function deleteBackendAdapter(
  backend: BackendAddress,
  caller: TenantCaller,
  id: string,
): Promise<boolean> {
  const path = `/v1/adapters/${encodeURIComponent(id)}`
  const response = await callForTenant(backend, caller, { method: 'DELETE', path }).catch(
    (error) => {
      if (error instanceof ApiError && error.code === 'deadline_exceeded')
        throw new ApiError('adapter_in_use', { cause: error, retryAfterMs: IN_USE_RETRY_AFTER_MS })
      throw error
    },
  )
  if (response.status === 404) return false
  await readTenantAnswer(response)
  return true
}

const IN_USE_RETRY_AFTER_MS = 5_000
