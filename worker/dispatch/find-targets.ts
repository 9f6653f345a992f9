import type { BackendModel } from '../../protocol/backend.ts'
import type { Tariff } from '../access/pricing.ts'
import type { Config } from '../env.ts'
import { ApiError } from '../errors.ts'
import type { PriceBook } from '../ledger/price-book.ts'
import { composeTariff } from '../ledger/price-list.ts'
import type { BackendAddress } from './backend-client.ts'
import type { Concession } from './concession.ts'
import type { Fleet } from './fleet.ts'
import type { GenerationRequest } from './generation-request.ts'
import type { ModelCatalogue } from './model-catalogue.ts'
import { type Pick as BackendPick, pickBackend, type Target } from './pick-backend.ts'
import { showTo } from './visible-models.ts'

interface Dispatch {
  readonly config: Config
  readonly catalogue: ModelCatalogue
  readonly fleet: Fleet
  readonly prices: PriceBook
}

/** A backend that can serve a request, and what it then costs. */
export interface Candidate {
  readonly target: Target
  readonly backend: BackendAddress
  readonly tariff: Tariff
  /** Absent: the request is served as it was asked for. */
  readonly concession?: Concession
}

interface TargetOptions {
  /** Whose request it is: it sees what everyone may use, and its own. */
  readonly accountId: string
  readonly needsFreshList?: boolean
}

/** How soon a caller may try again when no backend answers. */
export const NO_BACKEND_RETRY_AFTER_MS = 1_000

/**
 * The backend that will serve a model and those that stand in for it, in order. What the catalogue
 * does not know is asked for once more, so that an adapter can be named the moment it is loaded.
 * With `needsFreshList` the digests are those of now. Throws `model_not_found` or `no_backend`.
 */
export async function findTargets(
  { config, catalogue, fleet, prices }: Dispatch,
  request: Pick<GenerationRequest, 'model' | 'merge'>,
  waitUntil: (work: Promise<unknown>) => void,
  { accountId, needsFreshList = false }: TargetOptions,
): Promise<readonly [Candidate, ...Candidate[]]> {
  const findBackend = (backendId: string) => {
    const backend = config.BACKENDS.find((candidate) => candidate.id === backendId)
    if (backend === undefined) throw new Error(`No backend ${backendId} is configured.`)
    return backend
  }
  const stateOf = (backendId: string) => ({
    isDraining: findBackend(backendId).draining,
    blockedForMs: fleet.blockedForMs(backendId, Date.now()),
    inFlightCount: fleet.inFlightCount(backendId),
  })
  const priceList = await prices.read(waitUntil)
  const compose = (target: Target): Candidate => {
    const backend = findBackend(target.backendId)
    const scope = {
      models: nameForPrice(target.model),
      backendId: backend.id,
      configured: backend.price ?? config.PRICE,
    }
    return { target, backend, tariff: composeTariff(priceList, scope, Date.now()) }
  }
  const { model: modelId, merge } = request
  const options = { stateOf, chance: Math.random(), merge }
  let pick: BackendPick = pickBackend(
    showTo(accountId, await (needsFreshList ? catalogue.readFresh() : catalogue.read(waitUntil))),
    modelId,
    options,
  )
  const isUnknown = pick.outcome === 'unknown_model' || pick.outcome === 'unknown_adapter'
  if (isUnknown || pick.outcome === 'none_reachable') {
    pick = pickBackend(showTo(accountId, await catalogue.refresh()), modelId, options)
  }
  switch (pick.outcome) {
    case 'picked': {
      const [first, ...standIns] = pick.targets
      return [compose(first), ...standIns.map(compose)]
    }
    case 'unknown_model':
      throw unknownModel(modelId, 'model')
    case 'unknown_adapter':
      throw unknownModel(
        merge?.members[pick.index]?.id ?? '',
        `tallygate.adapters.${pick.index}.id`,
      )
    case 'no_base_model':
      throw new ApiError('invalid_request', {
        message: "model: must be a base model where 'tallygate.adapters' names the adapters",
        param: 'model',
      })
    case 'none_reachable':
      throw new ApiError('no_backend', { retryAfterMs: NO_BACKEND_RETRY_AFTER_MS })
    case 'all_blocked':
      throw new ApiError('no_backend', { retryAfterMs: pick.retryAfterMs })
  }
}

/** Whose price holds, first of all. An account names its own adapters: their names set no price. */
function nameForPrice({ id, parent, tenant }: BackendModel): readonly string[] {
  if (!parent) return [id]
  return tenant === undefined ? [id, parent] : [parent]
}

function unknownModel(id: string, param: string): ApiError {
  const message = `The model ${JSON.stringify(id)} does not exist.`
  return new ApiError('model_not_found', { message, param })
}
