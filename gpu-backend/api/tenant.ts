import { TENANT_HEADER } from '../../protocol/backend.ts'
import { OWNING_TENANT, type Tenant } from '../adapters/owned-name.ts'
import { BackendError } from '../errors.ts'
import type { BackendContext } from './services.ts'

/** The tenant of all who name none. */
export const ANONYMOUS = 'anonymous'

/** Whose adapters a request may name beside the operator's; null: nobody's. */
export function asOwner(tenant: string): Tenant {
  return tenant !== ANONYMOUS && OWNING_TENANT.test(tenant) ? tenant : null
}

/**
 * Whose adapters an operation is about: without the header the operator's, who sees all. Throws
 * `invalid_request` for a tenant that could own none, so that it is not taken for the operator.
 */
export function requireOwner(c: BackendContext): Tenant {
  const given = c.req.header(TENANT_HEADER)
  if (given === undefined) return null
  const tenant = asOwner(given)
  if (tenant !== null) return tenant
  const message = `'${TENANT_HEADER}': must be 1 to 100 letters, digits, "_" or "-"`
  throw new BackendError('invalid_request', message, { param: TENANT_HEADER })
}
