import type { BackendModel } from '../../protocol/backend.ts'
import { splitName, type Tenant } from '../adapters/owned-name.ts'
import { BackendError } from '../errors.ts'
import type { BackendContext, Services } from './services.ts'
import { asOwner, requireOwner } from './tenant.ts'

/**
 * `GET /v1/models`: the base model, and the adapters that can be named now. With a tenant, those that
 * it may use; without one all, each with its tenant.
 */
export function listModels(c: BackendContext, services: Services): Response {
  const tenant = requireOwner(c)
  const models = describeModels(services)
  return c.json({ object: 'list', data: tenant === null ? models : showTo(tenant, models) })
}

/** `GET /v1/models/{id}`, also as `base:adapter`. */
export function findModel(c: BackendContext, services: Services): Response {
  return c.json(requireModel(c.req.param('id') ?? '', services, c.var.tenant))
}

/** The model of a name, the base model where none is given. Throws `model_not_found`. */
export function requireModel(
  name: string | null | undefined,
  services: Services,
  tenant: string,
): BackendModel {
  const asked = name ?? services.model.id
  const prefix = `${services.model.id}:`
  const id = asked.startsWith(prefix) ? asked.slice(prefix.length) : asked
  const models = showTo(asOwner(tenant), describeModels(services))
  const model = models.find((candidate) => candidate.id === id)
  if (model) return model
  throw new BackendError('model_not_found', 'The model does not exist.', { param: 'model' })
}

/** A tenant's own adapters hide the operator's of the same name. */
function showTo(tenant: Tenant, models: readonly BackendModel[]): readonly BackendModel[] {
  const own = models.filter((model) => model.tenant !== undefined && model.tenant === tenant)
  const hidden = new Set(own.map(({ id }) => id))
  const shared = models.filter(({ id, tenant }) => tenant === undefined && !hidden.has(id))
  return [...shared, ...own]
}

function describeModels({ model, adapters, startedAtMs }: Services): readonly BackendModel[] {
  const base: BackendModel = {
    id: model.id,
    object: 'model',
    created: Math.floor(startedAtMs / 1000),
    owned_by: 'tallygate',
    root: model.id,
    parent: null,
    max_model_len: model.contextTokens,
    digest: model.digest,
  }
  const adapterModels = adapters.list().flatMap(({ id, version, state }): BackendModel[] => {
    if (!version || state === 'unloading') return []
    const { tenant, name } = splitName(id)
    return [
      {
        ...base,
        id: name,
        ...(tenant !== null && { tenant }),
        created: Math.floor(version.registeredAtMs / 1000),
        owned_by: version.owner ?? 'tallygate',
        parent: model.id,
        digest: version.digest,
      },
    ]
  })
  return [base, ...adapterModels]
}
