import { join } from 'node:path'
import type { Tenant } from '../adapters/owned-name.ts'
import { qualifyName } from '../adapters/owned-name.ts'
import { BackendError } from '../errors.ts'
import type { Attributor } from './attribution.ts'
import { createAttributorCache } from './attributor-cache.ts'
import type { DatanetStore } from './datanet-store.ts'

interface DatanetPlaces {
  /** Of the operator's datanets; null: there are none. */
  readonly rootDir: string | null
  /** Null: tenants have none. */
  readonly store: DatanetStore | null
}

/** The index that an adapter's `datanet` names: the tenant's own datanet before the operator's. Throws `adapter_rejected`. */
export function createDatanetOpener({ rootDir, store }: DatanetPlaces) {
  const openFolder = createAttributorCache()
  return async (datanet: string, tenant: Tenant): Promise<Attributor> => {
    const ownId = tenant === null ? null : qualifyName(tenant, datanet)
    try {
      if (store && ownId !== null && store.find(ownId)) return await store.open(ownId)
      if (rootDir !== null) return await openFolder(join(rootDir, datanet))
    } catch (error) {
      if (!(error instanceof BackendError)) throw error
      throw rejected(error.message, error)
    }
    throw rejected(`There is no datanet "${datanet}", and the adapter names it.`)
  }
}

function rejected(message: string, cause?: unknown): BackendError {
  return new BackendError('adapter_rejected', message, { param: 'datanet', cause })
}
