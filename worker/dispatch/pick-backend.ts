import {
  type AdapterMerge,
  digestMerge,
  type MergePlan,
  orderMembers,
} from '../../protocol/adapter-merge.ts'
import type { BackendModel } from '../../protocol/backend.ts'
import type { Digest } from '../../protocol/digest.ts'

/** What is known of one backend, as plain data. */
export interface BackendSnapshot {
  readonly backendId: string
  /** It answered the last time it was asked. */
  readonly isReachable: boolean
  /** What everyone may use, as it was listed when it last answered. */
  readonly models: readonly BackendModel[]
  /** By account, what it alone may use; absent: nothing (visible-models.ts). */
  readonly ownModels?: ReadonlyMap<string, readonly BackendModel[]>
}

/** What decides among backends that serve the same model. */
export interface BackendState {
  /** Takes no new requests. */
  readonly isDraining: boolean
  /** How long no request may set out for it, milliseconds. */
  readonly blockedForMs: number
  /** Requests of this isolate that are under way there. */
  readonly inFlightCount: number
}

/** A model on a backend that can serve it. */
export interface Target {
  readonly backendId: string
  readonly model: BackendModel
  /** Of the base model, where the backend names it. */
  readonly modelDigest: Digest | null
  /** Of the adapter, or of the merge; null for a base model, and where the backend names none. */
  readonly adapterDigest: Digest | null
  /** What `adapterDigest` names where adapters are merged, owners unknown; null otherwise. */
  readonly merge: AdapterMerge | null
}

export type Pick =
  /** The first is to serve; the others stand in for it, in this order. All have the same weights. */
  | { readonly outcome: 'picked'; readonly targets: readonly [Target, ...Target[]] }
  /** No backend lists the model, and all that there are were heard. */
  | { readonly outcome: 'unknown_model' }
  /** The model is an adapter, and adapters are merged over base models alone. */
  | { readonly outcome: 'no_base_model' }
  /** No backend that lists the model lists this adapter of the merge for it. */
  | { readonly outcome: 'unknown_adapter'; readonly index: number }
  /** Those that may serve the model do not answer, or take no new requests. */
  | { readonly outcome: 'none_reachable' }
  /** Those that may serve the model failed too often just now. */
  | { readonly outcome: 'all_blocked'; readonly retryAfterMs: number }

export interface PickOptions {
  readonly stateOf: (backendId: string) => BackendState
  /** 0 up to, not including, 1; decides which two backends are compared. */
  readonly chance: number
  /** Adapters that are to be merged over the model; absent or null: none. */
  readonly merge?: MergePlan | null
}

/**
 * Orders the backends that can serve a model. Of two the less loaded goes first (power of two choices,
 * Mitzenmacher 2001): for a base model two at random, for an adapter the two that rendezvous hashing
 * names, so that an adapter stays where it is loaded already, and so does a merge. A backend that was
 * heard before and is silent now may still serve the model, so its absence is never reported as an
 * unknown model.
 */
export function pickBackend(
  snapshots: readonly BackendSnapshot[],
  modelId: string,
  { stateOf, chance, merge = null }: PickOptions,
): Pick {
  const candidates = snapshots.flatMap((snapshot) => {
    const model = snapshot.models.find((candidate) => candidate.id === modelId)
    if (model === undefined || !snapshot.isReachable) return []
    const target = composeTarget(snapshot, model, merge)
    const state = stateOf(snapshot.backendId)
    return target === null || state.isDraining ? [] : [{ target, state }]
  })
  const open = candidates.filter(({ state }) => state.blockedForMs === 0)
  if (candidates.length === 0) {
    return explainAbsence(snapshots, modelId, merge)
  }
  if (open.length === 0) {
    const retryAfterMs = Math.min(...candidates.map(({ state }) => state.blockedForMs))
    return { outcome: 'all_blocked', retryAfterMs }
  }
  const isAdapter =
    merge !== null ||
    open.some(({ target }) => target.adapterDigest !== null || target.model.parent)
  const ordered = isAdapter
    ? orderByRendezvous(open, nameContent(modelId, merge))
    : orderByChance(open, chance)
  const [first, second] = ordered
  if (first === undefined) throw new Error('An order has as many members as what it orders.')
  if (second !== undefined && second.state.inFlightCount < first.state.inFlightCount) {
    ordered.splice(0, 2, second, first)
  }
  const [chosen = first, ...others] = ordered
  const standIns = others.filter(({ target }) => hasSameWeights(target, chosen.target))
  return {
    outcome: 'picked',
    targets: [chosen.target, ...standIns.map(({ target }) => target)],
  }
}

/** Why nobody can serve: what is not listed may be listed by a backend that was not heard. */
function explainAbsence(
  snapshots: readonly BackendSnapshot[],
  modelId: string,
  merge: MergePlan | null,
): Pick {
  const listed = snapshots.flatMap(({ models }) => {
    const model = models.find(({ id }) => id === modelId)
    return model ? [{ model, models }] : []
  })
  const wereAllHeard = snapshots.every((snapshot) => snapshot.isReachable)
  if (wereAllHeard && listed.length === 0) return { outcome: 'unknown_model' }
  if (merge !== null && listed.length > 0) {
    if (listed.every(({ model }) => model.parent)) return { outcome: 'no_base_model' }
    const index = merge.members.findIndex(
      ({ id }) => !listed.some(({ models }) => findMember(models, modelId, id)),
    )
    if (wereAllHeard && index !== -1) return { outcome: 'unknown_adapter', index }
  }
  return { outcome: 'none_reachable' }
}

function findMember(models: readonly BackendModel[], modelId: string, id: string) {
  return models.find((model) => model.id === id && model.parent === modelId)
}

/** What stays where it is loaded. */
function nameContent(modelId: string, merge: MergePlan | null): string {
  if (merge === null) return modelId
  const { method, densityPpm, members } = merge
  const parts = members.map(({ id, weightPpm }) => `${id} ${weightPpm}`).sort()
  return [modelId, method, densityPpm, ...parts].join('\n')
}

interface Candidate {
  readonly target: Target
  readonly state: BackendState
}

/** A random one, another random one, the rest. */
function orderByChance(candidates: readonly Candidate[], chance: number): Candidate[] {
  const rest = [...candidates]
  const scaled = chance * rest.length
  const first = rest.splice(Math.floor(scaled), 1)
  const second = rest.splice(Math.floor((scaled % 1) * rest.length), 1)
  return [...first, ...second, ...rest]
}

/** Highest random weight (Thaler and Ravishankar 1998): a backend that comes or goes moves only its own. */
function orderByRendezvous(candidates: readonly Candidate[], modelId: string): Candidate[] {
  return candidates
    .map((candidate) => ({
      candidate,
      weight: hashText(`${candidate.target.backendId}\n${modelId}`),
    }))
    .sort((a, b) => b.weight - a.weight)
    .map(({ candidate }) => candidate)
}

/** FNV-1a of the UTF-16 units, mixed by the end of MurmurHash3: 32 bits. */
function hashText(text: string): number {
  let hash = 0x811c9dc5
  for (let at = 0; at < text.length; at++) {
    hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

function hasSameWeights(a: Target, b: Target): boolean {
  return a.modelDigest === b.modelDigest && a.adapterDigest === b.adapterDigest
}

/** Null: the backend does not have what is to be merged. */
function composeTarget(
  { backendId, models }: BackendSnapshot,
  model: BackendModel,
  plan: MergePlan | null,
): Target | null {
  const digest = model.digest ?? null
  if (plan !== null) {
    const merge = composeMerge(models, model, plan)
    if (merge === null) return null
    return { backendId, model, modelDigest: digest, adapterDigest: digestMerge(merge), merge }
  }
  const common = { backendId, model, merge: null }
  if (!model.parent) return { ...common, modelDigest: digest, adapterDigest: null }
  const base = models.find((candidate) => candidate.id === model.parent)
  return { ...common, modelDigest: base?.digest ?? null, adapterDigest: digest }
}

function composeMerge(
  models: readonly BackendModel[],
  base: BackendModel,
  { method, densityPpm, members }: MergePlan,
): AdapterMerge | null {
  const found = members.flatMap(({ id, weightPpm }) => {
    const digest = findMember(models, base.id, id)?.digest
    return digest ? [{ digest, owner: null, weightPpm }] : []
  })
  if (base.parent || found.length < members.length) return null
  return { method, densityPpm, members: orderMembers(found) }
}
