import { isDeepStrictEqual } from 'node:util'
import type { Address, Digest } from '../../protocol/digest.ts'
import type { Attributor } from '../attribution/attribution.ts'
import type { EngineHandle } from '../engine-handle.ts'
import { BackendError } from '../errors.ts'
import { describeThrown, type Log } from '../log.ts'
import type { AdapterRegistration } from './adapter-folder.ts'
import { createAdapterResidency } from './adapter-residency.ts'
import type { LoraWeights } from './lora-weights.ts'

/** One content of an adapter as requests use it. It never changes: a reload makes a new version. */
export interface AdapterVersion {
  readonly digest: Digest
  readonly sizeBytes: number
  readonly owner: Address | null
  readonly datanet: string | null
  /** Null: trained on no datanet, nobody's data is credited. */
  readonly attributor: Attributor | null
  readonly loadedAtMs: number
}

type AdapterStatus =
  /** A `version` that is already there goes on serving while its successor loads. */
  | { readonly state: 'loading'; readonly version: AdapterVersion | null }
  | { readonly state: 'ready'; readonly version: AdapterVersion }
  /** No new request may name it; those in flight finish. */
  | { readonly state: 'unloading'; readonly version: AdapterVersion | null }
  | { readonly state: 'failed'; readonly error: BackendError }

export interface AdapterEntry {
  readonly id: string
  readonly status: AdapterStatus
  /** Requests in flight on the version that serves. */
  readonly useCount: number
}

/** The use of one version by one request. */
interface AdapterLease {
  readonly version: AdapterVersion
  /** Call once, when the request has ended. */
  readonly release: () => void
}

/** Adapters by id. Loads and unloads of one id happen one after another, those of several at once. */
export interface AdapterRegistry {
  /**
   * Resolves when the adapter is ready. Calls that ask for the same share one load. When a load
   * fails, the version that served before goes on serving; without one, the entry says why.
   */
  readonly register: (registration: AdapterRegistration) => Promise<AdapterEntry>
  /** Resolves when the last request in flight has ended and the engine has let go; false: no such id. */
  readonly unregister: (id: string) => Promise<boolean>
  /** Waits for a first load; null when nothing serves by that id. */
  readonly lease: (id: string) => Promise<AdapterLease | null>
  readonly find: (id: string) => AdapterEntry | null
  readonly list: () => readonly AdapterEntry[]
}

interface AdapterRegistryOptions {
  readonly engine: EngineHandle
  readonly readWeights: (folder: string) => Promise<LoraWeights>
  /** Throws `adapter_rejected` where the datanet is missing or not valid. */
  readonly openAttributor: (datanet: string) => Promise<Attributor>
  readonly log: Log
  readonly now: () => number
}

interface Slot {
  readonly id: string
  status: AdapterStatus
  /** The last of the loads and unloads that were asked for. */
  tail: Promise<unknown>
  pendingCount: number
  /** The newest of them, when it is a load. */
  load: { readonly registration: AdapterRegistration; readonly done: Promise<AdapterEntry> } | null
}

export function createAdapterRegistry(options: AdapterRegistryOptions): AdapterRegistry {
  const slots = new Map<string, Slot>()
  const versions = createVersions(options)

  const describe = ({ id, status }: Slot): AdapterEntry => {
    const version = pickServing(status)
    return { id, status, useCount: version ? versions.countUses(version) : 0 }
  }

  const enqueue = <Result>(slot: Slot, run: () => Promise<Result>): Promise<Result> => {
    slot.pendingCount += 1
    const done = slot.tail.then(run).finally(() => {
      slot.pendingCount -= 1
      if (slot.status.state === 'unloading' && slot.pendingCount === 0) slots.delete(slot.id)
    })
    slot.tail = done.catch(() => undefined) // the caller of this one is told
    return done
  }

  const load = async (slot: Slot, registration: AdapterRegistration) => {
    const previous = pickServing(slot.status)
    slot.status = { state: 'loading', version: previous }
    try {
      slot.status = { state: 'ready', version: await versions.open(registration) }
    } catch (thrown) {
      const error = toBackendError(thrown)
      slot.status = previous ? { state: 'ready', version: previous } : { state: 'failed', error }
      throw error
    }
    if (previous) versions.retireLater(previous)
    return describe(slot)
  }

  const unload = async (slot: Slot) => {
    const version = pickServing(slot.status)
    slot.status = { state: 'unloading', version }
    if (version) await versions.retire(version)
    return true
  }

  return {
    register: (registration) => {
      const slot = slots.get(registration.id) ?? createSlot(registration.id)
      slots.set(slot.id, slot)
      if (slot.load && isDeepStrictEqual(slot.load.registration, registration)) {
        return slot.load.done
      }
      const current = { registration, done: enqueue(slot, () => load(slot, registration)) }
      slot.load = current
      return current.done.finally(() => {
        if (slot.load === current) slot.load = null
      })
    },
    unregister: async (id) => {
      const slot = slots.get(id)
      if (!slot) return false
      slot.load = null
      return enqueue(slot, () => unload(slot))
    },
    lease: async (id) => {
      const slot = slots.get(id)
      if (slot && !pickServing(slot.status)) await slot.load?.done.catch(() => undefined)
      const version = slot && pickServing(slot.status)
      return version ? { version, release: versions.use(version) } : null
    },
    find: (id) => {
      const slot = slots.get(id)
      return slot ? describe(slot) : null
    },
    list: () => [...slots.values()].map(describe),
  }
}

/** The versions that the engine holds, and the requests that use them. */
function createVersions({ engine, readWeights, openAttributor, log, now }: AdapterRegistryOptions) {
  const residency = createAdapterResidency(engine)
  const uses = new Map<AdapterVersion, { count: number; onIdle: () => void }>()

  const open = async (registration: AdapterRegistration): Promise<AdapterVersion> => {
    const { folder, owner, datanet } = registration
    const attributor = datanet === null ? null : await openAttributor(datanet)
    const weights = await readWeights(folder)
    const { digest, sizeBytes } = weights
    await residency.hold(weights)
    const version = { digest, sizeBytes, owner, datanet, attributor, loadedAtMs: now() }
    uses.set(version, { count: 0, onIdle: () => undefined })
    return version
  }

  const retire = async (version: AdapterVersion) => {
    const use = uses.get(version)
    if (use && use.count > 0) {
      await new Promise<void>((resolve) => {
        use.onIdle = resolve
      })
    }
    uses.delete(version)
    await residency.release(version.digest)
  }

  const retireLater = (version: AdapterVersion) => {
    retire(version).catch((error: unknown) => {
      log('error', 'adapter_unload_failed', { digest: version.digest, ...describeThrown(error) })
    })
  }

  /** Counts one use; the function returned ends it. */
  const use = (version: AdapterVersion) => {
    const entry = uses.get(version)
    if (!entry) throw new Error('a version was used that is gone')
    entry.count += 1
    return () => {
      entry.count -= 1
      if (entry.count === 0) entry.onIdle()
    }
  }

  const countUses = (version: AdapterVersion) => uses.get(version)?.count ?? 0

  return { open, retire, retireLater, use, countUses }
}

function createSlot(id: string): Slot {
  return {
    id,
    status: { state: 'loading', version: null },
    tail: Promise.resolve(),
    pendingCount: 0,
    load: null,
  }
}

/** The version that a new request would run on. */
function pickServing(status: AdapterStatus): AdapterVersion | null {
  return status.state === 'ready' || status.state === 'loading' ? status.version : null
}

function toBackendError(thrown: unknown): BackendError {
  if (thrown instanceof BackendError) return thrown
  return new BackendError('internal_error', 'The adapter could not be loaded.', { cause: thrown })
}
