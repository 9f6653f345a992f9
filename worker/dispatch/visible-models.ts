import type { BackendModel } from '../../protocol/backend.ts'
import type { BackendSnapshot } from './pick-backend.ts'

type ListedModels = Pick<BackendSnapshot, 'models' | 'ownModels'>

/** A backend's list, with what belongs to accounts put apart: who forgets to ask for it does not see it. */
export function partByOwner(listed: readonly BackendModel[]): ListedModels {
  const owned = listed.filter(({ tenant }) => tenant !== undefined)
  if (owned.length === 0) return { models: listed }
  return {
    models: listed.filter(({ tenant }) => tenant === undefined),
    ownModels: Map.groupBy(owned, ({ tenant }) => tenant ?? ''),
  }
}

/** What an account may use: what everyone may and its own, which hides what else has its name. */
export function showTo(
  accountId: string,
  snapshots: readonly BackendSnapshot[],
): readonly BackendSnapshot[] {
  const ownIds = new Set(
    snapshots.flatMap(({ ownModels }) => ownModels?.get(accountId)?.map(({ id }) => id) ?? []),
  )
  if (ownIds.size === 0) return snapshots
  return snapshots.map((snapshot) => {
    const shared = snapshot.models.filter(({ id }) => !ownIds.has(id))
    return { ...snapshot, models: [...shared, ...(snapshot.ownModels?.get(accountId) ?? [])] }
  })
}
