import type { Config } from '../env.ts'
import { ApiError } from '../errors.ts'
import type { BackendAddress } from './backend-client.ts'
import type { ModelCatalogue } from './model-catalogue.ts'
import { type Pick, pickBackend, type Target } from './pick-backend.ts'

interface Fleet {
  readonly config: Config
  readonly catalogue: ModelCatalogue
}

/** How soon a caller may try again when no backend answers. */
const NO_BACKEND_RETRY_AFTER_MS = 1_000

/**
 * The backend that will serve a model. What the catalogue does not know is asked for once more, so
 * that an adapter can be named the moment it is loaded. Throws `model_not_found` or `no_backend`.
 */
export async function findTarget(
  { config, catalogue }: Fleet,
  modelId: string,
  waitUntil: (work: Promise<unknown>) => void,
): Promise<{ readonly target: Target; readonly backend: BackendAddress }> {
  let pick: Pick = pickBackend(await catalogue.read(waitUntil), modelId, Math.random())
  if (pick.outcome !== 'picked') {
    pick = pickBackend(await catalogue.refresh(), modelId, Math.random())
  }
  switch (pick.outcome) {
    case 'picked': {
      const { target } = pick
      const backend = config.BACKENDS.find((candidate) => candidate.id === target.backendId)
      if (backend === undefined) throw new Error(`No backend ${target.backendId} is configured.`)
      return { target, backend }
    }
    case 'unknown_model':
      throw new ApiError('model_not_found', {
        message: `The model ${JSON.stringify(modelId)} does not exist.`,
        param: 'model',
      })
    case 'none_reachable':
      throw new ApiError('no_backend', { retryAfterMs: NO_BACKEND_RETRY_AFTER_MS })
  }
}
