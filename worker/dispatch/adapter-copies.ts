import type { AdapterListing } from '../../protocol/adapter-listing.ts'
import { ApiError } from '../errors.ts'
import type { BackendAddress } from './backend-client.ts'
import type { BackendSnapshot } from './pick-backend.ts'

/** A backend of ours, and the base model that adapters can be put on there. */
export interface AdapterHost {
  readonly backend: BackendAddress
  readonly baseModel: string
}

/** What one backend says of an adapter or a datanet. */
export type Copy<Listing> =
  | { readonly outcome: 'held'; readonly listing: Listing }
  | { readonly outcome: 'absent' }
  | { readonly outcome: 'failed'; readonly error: ApiError }

export interface BackendCopy<Listing> {
  readonly backendId: string
  readonly copy: Copy<Listing>
}

/** An adapter on the backends that serve its base model, in the order of the configuration. */
export interface SpreadAdapter {
  readonly id: string
  readonly baseModel: string
  readonly copies: readonly BackendCopy<AdapterListing>[]
}

/** The backends that adapters can be put on: those that name the exact weights of a base model. */
export function findAdapterHosts(
  backends: readonly BackendAddress[],
  snapshots: readonly BackendSnapshot[],
): readonly AdapterHost[] {
  return backends.flatMap((backend) => {
    const { models = [] } = snapshots.find(({ backendId }) => backendId === backend.id) ?? {}
    return models
      .filter(({ parent, digest }) => !parent && digest !== undefined)
      .map(({ id }) => ({ backend, baseModel: id }))
  })
}

/** Where an adapter may be: the hosts, and backends that were never heard. */
export function listPossibleHosts(
  backends: readonly BackendAddress[],
  snapshots: readonly BackendSnapshot[],
): readonly BackendAddress[] {
  const hostIds = new Set(findAdapterHosts(backends, snapshots).map(({ backend }) => backend.id))
  return backends.filter(({ id }) => {
    const snapshot = snapshots.find(({ backendId }) => backendId === id)
    const isUnheard = snapshot?.isReachable !== true && (snapshot?.models ?? []).length === 0
    return isUnheard || hostIds.has(id)
  })
}

/**
 * The hosts of the base model that is asked for; where none is named, of the only one there is.
 * Throws `invalid_request` where that leaves a choice or nothing, and `no_backend`.
 */
export function pickAdapterHosts(
  hosts: readonly AdapterHost[],
  baseModel: string | undefined,
): readonly [AdapterHost, ...AdapterHost[]] {
  const baseModels = [...new Set(hosts.map((host) => host.baseModel))]
  if (baseModels.length === 0) throw new ApiError('no_backend')
  const named = baseModel ?? (baseModels.length === 1 ? baseModels[0] : undefined)
  if (named === undefined || !baseModels.includes(named)) {
    throw new ApiError('invalid_request', {
      message: `base_model: must be one of ${baseModels.join(', ')}`,
      param: 'base_model',
    })
  }
  const [first, ...others] = hosts.filter(
    (host) => host.baseModel === named && !host.backend.draining,
  )
  if (first === undefined) throw new ApiError('no_backend')
  return [first, ...others]
}

/** What each host has, by adapter: one that lacks it says so. */
export function gatherCopies(
  answers: readonly {
    readonly host: AdapterHost
    readonly listed: readonly AdapterListing[] | ApiError
  }[],
): readonly SpreadAdapter[] {
  const held = answers.flatMap(({ listed }) => (listed instanceof ApiError ? [] : listed))
  const named = new Map(held.map((adapter) => [`${adapter.base_model}\n${adapter.id}`, adapter]))
  return [...named.values()].map(({ id, base_model: baseModel }) => ({
    id,
    baseModel,
    copies: answers
      .filter(({ host }) => host.baseModel === baseModel)
      .map(({ host, listed }) => {
        const backendId = host.backend.id
        if (listed instanceof ApiError)
          return { backendId, copy: { outcome: 'failed' as const, error: listed } }
        const adapter = listed.find((each) => each.id === id)
        if (adapter === undefined) return { backendId, copy: { outcome: 'absent' as const } }
        return { backendId, copy: { outcome: 'held' as const, listing: adapter } }
      }),
  }))
}

/** Of several refusals the one that says most: what is wrong with the request, before what is with us. */
export function pickRefusal(errors: readonly ApiError[]): ApiError | null {
  const blamesRequest = ({ code }: ApiError) =>
    !['no_backend', 'upstream_error', 'deadline_exceeded'].includes(code)
  return errors.find(blamesRequest) ?? errors[0] ?? null
}
