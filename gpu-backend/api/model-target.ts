import type { AdapterVersion } from '../adapters/adapter-versions.ts'
import { BackendError } from '../errors.ts'
import type { Services } from './services.ts'

/** What a request's `model` names, held for the request until `release`. */
export interface ModelTarget {
  /** Null: the base model. */
  readonly adapter: AdapterVersion | null
  readonly release: () => void
}

/**
 * The base model by its id, an adapter by its own or as `base:adapter`. An adapter that is not in
 * the engine is waited for, until the signal is aborted. Throws `model_not_found`, or why the adapter
 * cannot be loaded.
 */
export async function leaseModel(
  model: string,
  { adapters, model: base }: Pick<Services, 'adapters' | 'model'>,
  signal: AbortSignal,
): Promise<ModelTarget> {
  if (model === base.id) return { adapter: null, release: () => undefined }
  const id = model.startsWith(`${base.id}:`) ? model.slice(base.id.length + 1) : model
  const lease = await adapters.lease(id, signal).catch((error: unknown) => {
    throw explainFailure(id, error, signal)
  })
  if (lease) return { adapter: lease.version, release: lease.release }
  const error = adapters.find(id)?.error
  if (error) throw explainFailure(id, error, signal)
  throw new BackendError('model_not_found', `The model '${model}' does not exist.`, {
    param: 'model',
  })
}

/** To the caller of a model, a rejected adapter is one that is not there. */
function explainFailure(id: string, error: unknown, signal: AbortSignal): unknown {
  if (signal.aborted) {
    return new BackendError('overloaded', 'The server is shutting down.', { retryAfterMs: 1000 })
  }
  if (!(error instanceof BackendError) || error.code !== 'adapter_rejected') return error
  return new BackendError(
    'model_not_found',
    `The adapter '${id}' could not be loaded. ${error.message}`,
    { param: 'model', cause: error },
  )
}
