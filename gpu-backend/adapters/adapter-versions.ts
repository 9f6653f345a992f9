import type { Address, Digest } from '../../protocol/digest.ts'
import type { Attributor } from '../attribution/attribution.ts'
import { BackendError } from '../errors.ts'
import { rejectFile, WEIGHTS_FILE } from './adapter-folder.ts'
import type { AdapterResidency } from './adapter-residency.ts'
import type { AdapterSources, PreparedAdapter } from './adapter-sources.ts'
import { type AdapterEvent, type AdapterState, findState, recordState } from './adapter-state.ts'
import type { StoredSource } from './adapter-store.ts'

/** One content of an adapter as requests use it. It never changes: a reload makes a new version. */
export interface AdapterVersion {
  readonly digest: Digest
  /** In the engine. */
  readonly sizeBytes: number
  readonly owner: Address | null
  readonly datanet: string | null
  readonly isPinned: boolean
  readonly source: StoredSource
  /** Null: trained on no datanet, nobody's data is credited. */
  readonly attributor: Attributor | null
  readonly registeredAtMs: number
}

/** What is going on with a version. */
export interface VersionStatus {
  readonly state: AdapterState
  readonly error: BackendError | null
  /** Newest last. */
  readonly events: readonly AdapterEvent[]
  /** Requests in the engine, and those on or waiting for a merge with it. */
  readonly useCount: number
  /** Requests that wait for the adapter to come there. */
  readonly waitingCount: number
}

interface Usage {
  useCount: number
  waitingCount: number
  onIdle: () => void
  unpin: () => void
  isDeleting: boolean
  failure: { readonly error: BackendError; readonly atMs: number } | null
  events: readonly AdapterEvent[]
}

export interface AdapterVersionsOptions {
  readonly residency: AdapterResidency
  readonly sources: AdapterSources
  readonly ramBudgetBytes: number
  readonly countState: (state: AdapterState) => void
  /** Told when no version has a content any more. */
  readonly onGone: (digest: Digest) => Promise<void>
  readonly now: () => number
}

type VersionFields = Omit<AdapterVersion, 'registeredAtMs'>

/** After a failure, requests get the same answer for so long, without another try. */
const RETRY_AFTER_MS = 5_000

/** The versions that requests may use or still use, by tier. */
export class AdapterVersions {
  readonly #options: AdapterVersionsOptions
  readonly #usages = new Map<AdapterVersion, Usage>()
  readonly #byDigest = new Map<Digest, Set<AdapterVersion>>()
  #pinnedBytes = 0

  constructor(options: AdapterVersionsOptions) {
    this.#options = options
  }

  /** Throws `adapter_rejected` when it could keep others out of memory for good. */
  checkSize({ sizeBytes }: PreparedAdapter, isPinned: boolean): void {
    const limit = Math.floor(this.#options.ramBudgetBytes / 2)
    if (sizeBytes > limit) {
      const rule = `at most ${limit}, half of ADAPTER_RAM_BYTES, are loaded`
      throw rejectFile(WEIGHTS_FILE, `takes ${sizeBytes} bytes of memory, and ${rule}`)
    }
    if (isPinned && this.#pinnedBytes + sizeBytes > limit) {
      throw rejectFile('pinned', `would pin more than ${limit} bytes, half of ADAPTER_RAM_BYTES`)
    }
  }

  /** Adds a version, without a look at its files. */
  open(fields: VersionFields): AdapterVersion {
    const version = { ...fields, registeredAtMs: this.#options.now() }
    const { digest } = version
    const usage: Usage = {
      useCount: 0,
      waitingCount: 0,
      onIdle: () => undefined,
      unpin: () => undefined,
      isDeleting: false,
      failure: null,
      events: [],
    }
    this.#usages.set(version, usage)
    const siblings = this.#byDigest.get(digest) ?? new Set()
    this.#byDigest.set(digest, siblings.add(version))
    this.#observe(version)
    return version
  }

  /** Resolves when the version is in memory, to stay until it is retired. */
  async pin(version: AdapterVersion): Promise<void> {
    const usage = this.#find(version)
    const { sizeBytes } = version
    this.#pinnedBytes += sizeBytes
    usage.unpin = () => {
      this.#pinnedBytes -= sizeBytes
    }
    const release = await this.#bringIn(version)
    usage.unpin = () => {
      this.#pinnedBytes -= sizeBytes
      release()
    }
  }

  /** Resolves with the end of the use when the version is in the engine. */
  async use(version: AdapterVersion, signal?: AbortSignal): Promise<() => void> {
    const usage = this.#find(version)
    const isReady = this.#options.residency.stateOf(version.digest) === 'ready'
    const failure = isReady ? null : usage.failure
    if (failure && this.#options.now() - failure.atMs < RETRY_AFTER_MS) throw failure.error
    usage.failure = null
    usage.waitingCount += 1
    try {
      const release = await this.#bringIn(version, signal)
      usage.useCount += 1
      return () => {
        usage.useCount -= 1
        release()
        this.#noteIdle(usage)
      }
    } catch (thrown) {
      if (signal?.aborted) throw thrown
      const error = toLoadError(thrown)
      if (error.code !== 'overloaded') usage.failure = { error, atMs: this.#options.now() }
      this.#observe(version)
      throw error
    } finally {
      usage.waitingCount -= 1
      this.#noteIdle(usage)
    }
  }

  /** A use outside the engine, as a part of a merge: the version stays, in memory or not. */
  keep(version: AdapterVersion): () => void {
    const usage = this.#find(version)
    usage.useCount += 1
    return () => {
      usage.useCount -= 1
      this.#noteIdle(usage)
    }
  }

  /** Waits for its uses to end, then lets go of the memory, and of the files that are ours. */
  async retire(version: AdapterVersion): Promise<void> {
    const { residency, sources } = this.#options
    const { digest, source } = version
    const usage = this.#find(version)
    usage.isDeleting = true
    this.#observe(version)
    if (usage.useCount + usage.waitingCount > 0) {
      await new Promise<void>((resolve) => {
        usage.onIdle = resolve
      })
    }
    usage.unpin()
    const siblings = this.#byDigest.get(digest)
    siblings?.delete(version)
    if (siblings?.size === 0) {
      this.#byDigest.delete(digest)
      await residency.discard(digest)
      await this.#options.onGone(digest)
    }
    await sources.forget({ digest, source }, !this.hasStored(digest))
    this.#usages.delete(version)
  }

  /** Whether a version has its files of this content in the store. */
  hasStored(digest: Digest): boolean {
    const versions = [...(this.#byDigest.get(digest) ?? [])]
    return versions.some(({ source }) => source.kind !== 'folder')
  }

  statusOf(version: AdapterVersion): VersionStatus {
    const { useCount, waitingCount, failure, events } = this.#find(version)
    const state = this.#stateOf(version)
    const error = state === 'failed' ? (failure?.error ?? null) : null
    return { state, error, events, useCount, waitingCount }
  }

  /** To be called after a content's tier has changed. */
  noteChange(digest: Digest): void {
    for (const version of this.#byDigest.get(digest) ?? []) this.#observe(version)
  }

  /** What is in memory needs no disk and does not wait. */
  async #bringIn(version: AdapterVersion, signal?: AbortSignal): Promise<() => void> {
    const { residency, sources } = this.#options
    const { digest, sizeBytes } = version
    const content = { digest, sizeBytes, owner: version, read: () => sources.read(version) }
    if (residency.stateOf(digest) === 'ready') return residency.hold(content, signal)
    const releaseFiles = await sources.hold(version, () => this.noteChange(digest))
    try {
      return await residency.hold(content, signal)
    } finally {
      releaseFiles()
    }
  }

  #noteIdle({ useCount, waitingCount, onIdle }: Usage): void {
    if (useCount + waitingCount === 0) onIdle()
  }

  #stateOf(version: AdapterVersion): AdapterState {
    const { residency, sources } = this.#options
    const { isDeleting, failure } = this.#find(version)
    return findState({
      isDeleting,
      resident: residency.stateOf(version.digest),
      isFetching: sources.isFetching(version),
      hasFailed: failure !== null,
      isOnDisk: sources.isOnDisk(version),
    })
  }

  #observe(version: AdapterVersion): void {
    const usage = this.#find(version)
    const events = recordState(usage.events, this.#stateOf(version), this.#options.now())
    const last = events.at(-1)
    if (events !== usage.events && last) this.#options.countState(last.state)
    usage.events = events
  }

  #find(version: AdapterVersion): Usage {
    const usage = this.#usages.get(version)
    if (usage) return usage
    throw new Error('a version was used that is gone')
  }
}

export function toLoadError(thrown: unknown): BackendError {
  if (thrown instanceof BackendError) return thrown
  return new BackendError('internal_error', 'The adapter could not be loaded.', { cause: thrown })
}
