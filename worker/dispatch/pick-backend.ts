import type { BackendModel } from '../../protocol/backend.ts'
import type { Digest } from '../../protocol/digest.ts'

/** What is known of one backend, as plain data. */
export interface BackendSnapshot {
  readonly backendId: string
  /** It answered the last time it was asked. */
  readonly isReachable: boolean
  /** As it listed them when it last answered. */
  readonly models: readonly BackendModel[]
}

/** A model on the backend that will serve it. */
export interface Target {
  readonly backendId: string
  readonly model: BackendModel
  /** Of the base model, where the backend names it. */
  readonly modelDigest: Digest | null
  /** Of the adapter; null for a base model. */
  readonly adapterDigest: Digest | null
}

export type Pick =
  | { readonly outcome: 'picked'; readonly target: Target }
  /** No backend lists the model, and all that there are were heard. */
  | { readonly outcome: 'unknown_model' }
  /** Those that may serve the model do not answer. */
  | { readonly outcome: 'none_reachable' }

/**
 * Chooses among the reachable backends that list the model; `chance` (0 up to, not including, 1)
 * spreads requests evenly over equals. A backend that was heard before and is silent now may still
 * serve the model, so its absence is never reported as an unknown model.
 */
export function pickBackend(
  snapshots: readonly BackendSnapshot[],
  modelId: string,
  chance: number,
): Pick {
  const candidates = snapshots.flatMap((snapshot) => {
    const model = snapshot.models.find((candidate) => candidate.id === modelId)
    return model !== undefined && snapshot.isReachable ? [{ snapshot, model }] : []
  })
  const picked = candidates[Math.floor(chance * candidates.length)]
  if (picked === undefined) {
    const wereAllHeard = snapshots.every((snapshot) => snapshot.isReachable)
    return { outcome: wereAllHeard ? 'unknown_model' : 'none_reachable' }
  }
  const { snapshot, model } = picked
  const digest = model.digest ?? null
  const base = model.parent
    ? snapshot.models.find((candidate) => candidate.id === model.parent)
    : undefined
  return {
    outcome: 'picked',
    target: {
      backendId: snapshot.backendId,
      model,
      modelDigest: model.parent ? (base?.digest ?? null) : digest,
      adapterDigest: model.parent ? digest : null,
    },
  }
}
