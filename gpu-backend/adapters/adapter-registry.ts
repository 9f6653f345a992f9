import { isDeepStrictEqual } from 'node:util'
import type { MergePlan } from '../../protocol/adapter-merge.ts'
import type { Digest } from '../../protocol/digest.ts'
import type { Attributor } from '../attribution/attribution.ts'
import type { BackendError } from '../errors.ts'
import { describeThrown, type Log } from '../log.ts'
import { type AdapterRegistration, rejectFile } from './adapter-folder.ts'
import type { AdapterMerges, MergeLease, WeighedVersion } from './adapter-merges.ts'
import type { AdapterSources } from './adapter-sources.ts'
import type { AdapterRecord, AdapterStore } from './adapter-store.ts'
import {
  type AdapterVersion,
  type AdapterVersions,
  toLoadError,
  type VersionStatus,
} from './adapter-versions.ts'
import { splitName, type Tenant } from './owned-name.ts'

export interface AdapterEntry extends VersionStatus {
  readonly id: string
  /** The version that serves; null while a first registration is checked, and when it failed. */
  readonly version: AdapterVersion | null
}

/** The use of one version by one request. */
interface AdapterLease {
  readonly version: AdapterVersion
  /** Call once, when the request has ended. */
  readonly release: () => void
}

/** Adapters by id. What is registered is checked and on disk or at the hub; requests bring it into memory. */
export interface AdapterRegistry {
  /**
   * Resolves when the adapter can be named in requests; a pinned one is in memory then. Calls that
   * ask for the same at once share the work. When it fails, the version that served before goes on
   * serving; without one, the entry says why. `isKept`: a restart finds the registration again.
   */
  readonly register: (
    registration: AdapterRegistration,
    options: { readonly isKept: boolean },
  ) => Promise<AdapterEntry>
  /** Takes over a registration of the store without reading the adapter. */
  readonly restore: (record: AdapterRecord) => Promise<void>
  /** Resolves when the last request in flight has ended and the engine has let go; false: no such id. */
  readonly unregister: (id: string) => Promise<boolean>
  /**
   * Resolves when the adapter is in the engine, where it stays until the lease is released; null
   * when nothing is registered by that id. Rejects with why it cannot be brought there.
   */
  readonly lease: (id: string, signal?: AbortSignal) => Promise<AdapterLease | null>
  /**
   * Resolves when the merge of these adapters is in the engine, as `lease` does; the adapters stay
   * registered for as long. Tells which member is not registered.
   */
  readonly leaseMerge: (plan: MergePlan, signal?: AbortSignal) => Promise<MergeLeaseResult>
  /** Ids of the tenant's adapters that name a datanet, those that are being registered too, sorted. */
  readonly listByDatanet: (tenant: Tenant, datanet: string) => readonly string[]
  readonly find: (id: string) => AdapterEntry | null
  readonly list: () => readonly AdapterEntry[]
}

export type MergeLeaseResult =
  | { readonly outcome: 'leased'; readonly lease: MergeLease }
  | { readonly outcome: 'unknown_member'; readonly index: number }

export interface AdapterRegistryOptions {
  readonly versions: AdapterVersions
  readonly merges: Pick<AdapterMerges, 'lease'>
  readonly sources: Pick<AdapterSources, 'prepare' | 'forget'>
  /** Null: a restart finds nothing. */
  readonly store: AdapterStore | null
  /** Of the base model; adapters that were checked against another are not restored. */
  readonly modelDigest: Digest
  /** Registrations that are kept at once, failed ones too. */
  readonly maxCount: number
  /** Of these, what one tenant may have. */
  readonly maxTenantCount: number
  /** Throws `adapter_rejected` where the tenant has no such datanet, or it is not valid. */
  readonly openAttributor: (datanet: string, tenant: Tenant) => Promise<Attributor>
  readonly log: Log
}

interface Slot {
  readonly id: string
  /** The version that a new request would run on. */
  serving: AdapterVersion | null
  /** The version that waits for its last requests to be gone. */
  leaving: AdapterVersion | null
  isDeleting: boolean
  /** Why nothing serves. */
  error: BackendError | null
  isChecking: boolean
  /** Of a first registration. */
  isRemote: boolean
  /** The last of the registrations and removals that were asked for. */
  tail: Promise<unknown>
  pendingCount: number
  /** Registrations that have not ended. */
  readonly pending: Set<AdapterRegistration>
  /** The newest of them, when it is a registration. */
  newest: {
    readonly registration: AdapterRegistration
    readonly done: Promise<AdapterEntry>
  } | null
}

export function createAdapterRegistry(options: AdapterRegistryOptions): AdapterRegistry {
  return new Registry(options)
}

class Registry implements AdapterRegistry {
  readonly #options: AdapterRegistryOptions
  readonly #slots = new Map<string, Slot>()

  constructor(options: AdapterRegistryOptions) {
    this.#options = options
  }

  async register(
    registration: AdapterRegistration,
    { isKept }: { readonly isKept: boolean },
  ): Promise<AdapterEntry> {
    const slot = this.#slotOf(registration.id)
    if (slot.newest && isDeepStrictEqual(slot.newest.registration, registration)) {
      return slot.newest.done
    }
    const done = this.#enqueue(slot, () => this.#add(slot, registration, isKept))
    const newest = { registration, done }
    slot.newest = newest
    slot.pending.add(registration)
    return done.finally(() => {
      slot.pending.delete(registration)
      if (slot.newest === newest) slot.newest = null
    })
  }

  async restore(record: AdapterRecord): Promise<void> {
    const slot = this.#slotOf(record.id)
    await this.#enqueue(slot, () => this.#change(slot, () => restoreVersion(this.#options, record)))
    if (slot.serving?.isPinned) await this.#options.versions.pin(slot.serving)
  }

  async unregister(id: string): Promise<boolean> {
    const slot = this.#slots.get(id)
    if (!slot) return false
    slot.newest = null
    return this.#enqueue(slot, () => this.#remove(slot))
  }

  async lease(id: string, signal?: AbortSignal): Promise<AdapterLease | null> {
    const slot = this.#slots.get(id)
    if (slot && !slot.serving) await slot.newest?.done.catch(() => undefined)
    const version = slot?.serving
    if (!version) return null
    try {
      return { version, release: await this.#options.versions.use(version, signal) }
    } catch (error) {
      // It was registered anew meanwhile, perhaps because its files had changed.
      if (slot.serving !== null && slot.serving !== version) return this.lease(id, signal)
      throw error
    }
  }

  async leaseMerge(
    { members, ...rule }: MergePlan,
    signal?: AbortSignal,
  ): Promise<MergeLeaseResult> {
    const slots = members.map(({ id }) => this.#slots.get(id))
    for (const slot of slots) {
      if (slot && !slot.serving) await slot.newest?.done.catch(() => undefined)
    }
    const weighed: WeighedVersion[] = []
    for (const [index, { weightPpm }] of members.entries()) {
      const version = slots[index]?.serving
      if (!version) return { outcome: 'unknown_member', index }
      weighed.push({ version, weightPpm })
    }
    return { outcome: 'leased', lease: await this.#options.merges.lease(weighed, rule, signal) }
  }

  listByDatanet(tenant: Tenant, datanet: string): readonly string[] {
    return [...this.#slots.values()]
      .filter(({ id }) => splitName(id).tenant === tenant)
      .filter(({ serving, pending }) =>
        [serving, ...pending].some((each) => each?.datanet === datanet),
      )
      .map(({ id }) => splitName(id).name)
      .sort()
  }

  find(id: string): AdapterEntry | null {
    const slot = this.#slots.get(id)
    return slot ? describe(slot, this.#options.versions) : null
  }

  list(): readonly AdapterEntry[] {
    return Array.from(this.#slots.values(), (slot) => describe(slot, this.#options.versions))
  }

  #slotOf(id: string): Slot {
    const known = this.#slots.get(id)
    if (known) return known
    const { maxCount, maxTenantCount } = this.#options
    if (this.#slots.size >= maxCount) {
      throw rejectFile('id', `is one more than the ${maxCount} that MAX_ADAPTERS allows`)
    }
    const { tenant } = splitName(id)
    if (tenant !== null && this.#countOwned(tenant) >= maxTenantCount) {
      throw rejectFile('id', `is one more than the ${maxTenantCount} that an account may have`)
    }
    const slot = createSlot(id)
    this.#slots.set(id, slot)
    return slot
  }

  #countOwned(tenant: string): number {
    return [...this.#slots.keys()].filter((other) => splitName(other).tenant === tenant).length
  }

  #enqueue<Result>(slot: Slot, run: () => Promise<Result>): Promise<Result> {
    slot.pendingCount += 1
    const done = slot.tail.then(run).finally(() => {
      slot.pendingCount -= 1
      if (slot.isDeleting && slot.pendingCount === 0) this.#slots.delete(slot.id)
    })
    slot.tail = done.catch(() => undefined) // the caller of this one is told
    return done
  }

  #add(slot: Slot, registration: AdapterRegistration, isKept: boolean): Promise<AdapterEntry> {
    const { versions, store } = this.#options
    slot.isRemote = registration.source.kind === 'hub'
    return this.#change(slot, async () => {
      const version = await openVersion(this.#options, registration)
      try {
        if (version.isPinned) await versions.pin(version)
        if (isKept) await store?.saveRecord(describeRecord(this.#options, slot.id, version))
      } catch (error) {
        await versions.retire(version)
        throw error
      }
      return version
    })
  }

  async #change(slot: Slot, open: () => Promise<AdapterVersion>): Promise<AdapterEntry> {
    slot.isDeleting = false
    slot.isChecking = true
    try {
      const previous = slot.serving
      slot.serving = await open()
      slot.error = null
      if (previous) this.#retireLater(previous)
    } catch (thrown) {
      const error = toLoadError(thrown)
      if (!slot.serving) slot.error = error
      throw error
    } finally {
      slot.isChecking = false
    }
    return describe(slot, this.#options.versions)
  }

  #retireLater(version: AdapterVersion): void {
    const { versions, log } = this.#options
    versions.retire(version).catch((error: unknown) => {
      log('error', 'adapter_unload_failed', { digest: version.digest, ...describeThrown(error) })
    })
  }

  async #remove(slot: Slot): Promise<true> {
    const { versions, store } = this.#options
    const { serving } = slot
    slot.isDeleting = true
    slot.serving = null
    slot.leaving = serving
    if (serving) await versions.retire(serving)
    slot.leaving = null
    slot.error = null
    await store?.removeRecord(slot.id)
    return true
  }
}

async function openVersion(
  { sources, versions, openAttributor }: AdapterRegistryOptions,
  { id, owner, datanet, isPinned, source }: AdapterRegistration,
): Promise<AdapterVersion> {
  const prepared = await sources.prepare(source)
  try {
    versions.checkSize(prepared, isPinned)
    const attributor = datanet === null ? null : await openAttributor(datanet, splitName(id).tenant)
    return versions.open({ ...prepared, owner, datanet, isPinned, attributor })
  } catch (error) {
    await sources.forget(prepared, !versions.hasStored(prepared.digest))
    throw error
  }
}

async function restoreVersion(
  { versions, openAttributor, modelDigest }: AdapterRegistryOptions,
  record: AdapterRecord,
): Promise<AdapterVersion> {
  if (record.modelDigest !== modelDigest) {
    throw rejectFile('id', 'was registered for another base model')
  }
  const { digest, sizeBytes, owner, datanet, isPinned, source } = record
  versions.checkSize({ digest, sizeBytes, source }, isPinned)
  const attributor =
    datanet === null ? null : await openAttributor(datanet, splitName(record.id).tenant)
  return versions.open({ digest, sizeBytes, owner, datanet, isPinned, source, attributor })
}

function describeRecord(
  { modelDigest }: AdapterRegistryOptions,
  id: string,
  { digest, sizeBytes, owner, datanet, isPinned, source }: AdapterVersion,
): AdapterRecord {
  return { version: 1, id, owner, datanet, isPinned, modelDigest, digest, sizeBytes, source }
}

function createSlot(id: string): Slot {
  return {
    id,
    serving: null,
    leaving: null,
    isDeleting: false,
    error: null,
    isChecking: false,
    isRemote: false,
    tail: Promise.resolve(),
    pendingCount: 0,
    pending: new Set(),
    newest: null,
  }
}

function describe(slot: Slot, versions: AdapterVersions): AdapterEntry {
  const { id, serving, leaving, error } = slot
  const version = serving ?? leaving
  if (version) return { id, version, ...versions.statusOf(version) }
  const state = slot.isDeleting
    ? 'unloading'
    : slot.isChecking && slot.isRemote
      ? 'fetching'
      : error
        ? 'failed'
        : 'registered'
  return { id, version: null, state, error, events: [], useCount: 0, waitingCount: 0 }
}
