import type { AdapterVersion } from '../adapters/adapter-registry.ts'
import { BackendError } from '../errors.ts'
import type { Services } from './services.ts'

/** What a request's `model` names, held for the request until `release`. */
export interface ModelTarget {
  /** Null: the base model. */
  readonly adapter: AdapterVersion | null
  readonly release: () => void
}

/** The base model by its id, an adapter by its own or as `base:adapter`. Throws `model_not_found`. */
export async function leaseModel(
  model: string,
  { adapters, model: base }: Pick<Services, 'adapters' | 'model'>,
): Promise<ModelTarget> {
  if (model === base.id) return { adapter: null, release: () => undefined }
  const id = model.startsWith(`${base.id}:`) ? model.slice(base.id.length + 1) : model
  const lease = await adapters.lease(id)
  if (lease) return { adapter: lease.version, release: lease.release }
  const status = adapters.find(id)?.status
  throw new BackendError(
    'model_not_found',
    status?.state === 'failed'
      ? `The adapter '${id}' could not be loaded. ${status.error.message}`
      : `The model '${model}' does not exist.`,
    { param: 'model' },
  )
}
