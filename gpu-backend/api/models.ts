import type { BackendModel } from '../../protocol/backend.ts'
import { BackendError } from '../errors.ts'
import type { BackendContext, Services } from './services.ts'

/** `GET /v1/models`: the base model, and the adapters that can be named now. */
export function listModels(c: BackendContext, services: Services): Response {
  return c.json({ object: 'list', data: describeModels(services) })
}

/** `GET /v1/models/{id}`, also as `base:adapter`. */
export function findModel(c: BackendContext, services: Services): Response {
  return c.json(requireModel(c.req.param('id') ?? '', services))
}

/** The model of a name, the base model where none is given. Throws `model_not_found`. */
export function requireModel(name: string | null | undefined, services: Services): BackendModel {
  const asked = name ?? services.model.id
  const prefix = `${services.model.id}:`
  const id = asked.startsWith(prefix) ? asked.slice(prefix.length) : asked
  const model = describeModels(services).find((candidate) => candidate.id === id)
  if (model) return model
  throw new BackendError('model_not_found', 'The model does not exist.', { param: 'model' })
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
    return [
      {
        ...base,
        id,
        created: Math.floor(version.registeredAtMs / 1000),
        owned_by: version.owner ?? 'tallygate',
        parent: model.id,
        digest: version.digest,
      },
    ]
  })
  return [base, ...adapterModels]
}
