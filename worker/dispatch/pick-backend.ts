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
  /** Of the adapter; null for a base model. */
  readonly adapterDigest: Digest | null
}

export type Pick =
  /** The first is to serve; the others stand in for it, in this order. All have the same weights. */
  | { readonly outcome: 'picked'; readonly targets: readonly [Target, ...Target[]] }
  /** No backend lists the model, and all that there are were heard. */
  | { readonly outcome: 'unknown_model' }
  /** Those that may serve the model do not answer, or take no new requests. */
  | { readonly outcome: 'none_reachable' }
  /** Those that may serve the model failed too often just now. */
  | { readonly outcome: 'all_blocked'; readonly retryAfterMs: number }

export interface PickOptions {
  readonly stateOf: (backendId: string) => BackendState
  /** 0 up to, not including, 1; decides which two backends are compared. */
  readonly chance: number
}

/**
 * Orders the backends that can serve a model. Of two the less loaded goes first (power of two choices,
 * Mitzenmacher 2001): for a base model two at random, for an adapter the two that rendezvous hashing
 * names, so that an adapter stays where it is loaded already. A backend that was heard before and
 * is silent now may still serve the model, so its absence is never reported as an unknown model.
 */
export function pickBackend(
  snapshots: readonly BackendSnapshot[],
  modelId: string,
  { stateOf, chance }: PickOptions,
): Pick {
  const candidates = snapshots.flatMap((snapshot) => {
    const model = snapshot.models.find((candidate) => candidate.id === modelId)
    if (model === undefined || !snapshot.isReachable) return []
    const state = stateOf(snapshot.backendId)
    return state.isDraining ? [] : [{ target: composeTarget(snapshot, model), state }]
  })
  const open = candidates.filter(({ state }) => state.blockedForMs === 0)
  if (candidates.length === 0) {
    const isListed = snapshots.some((each) => each.models.some((model) => model.id === modelId))
    const wereAllHeard = snapshots.every((snapshot) => snapshot.isReachable)
    return { outcome: wereAllHeard && !isListed ? 'unknown_model' : 'none_reachable' }
  }
  if (open.length === 0) {
    const retryAfterMs = Math.min(...candidates.map(({ state }) => state.blockedForMs))
    return { outcome: 'all_blocked', retryAfterMs }
  }
  const isAdapter = open.some(({ target }) => target.adapterDigest !== null || target.model.parent)
  const ordered = isAdapter ? orderByRendezvous(open, modelId) : orderByChance(open, chance)
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

function composeTarget({ backendId, models }: BackendSnapshot, model: BackendModel): Target {
  const digest = model.digest ?? null
  if (!model.parent) return { backendId, model, modelDigest: digest, adapterDigest: null }
  const base = models.find((candidate) => candidate.id === model.parent)
  return { backendId, model, modelDigest: base?.digest ?? null, adapterDigest: digest }
}
