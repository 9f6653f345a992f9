import type { Digest } from '../../protocol/digest.ts'
import type { EngineHandle } from '../engine-handle.ts'
import { BackendError } from '../errors.ts'
import { describeThrown, type Log } from '../log.ts'
import { ByteBudget } from './byte-budget.ts'
import type { LoraWeights } from './lora-weights.ts'

/** The content of an adapter, and how it comes into memory. */
export interface AdapterContent {
  readonly digest: Digest
  /** In the engine. */
  readonly sizeBytes: number
  /** Whose files are read: those of another with the same content may be gone. */
  readonly owner: object
  readonly read: () => Promise<LoraWeights>
}

/** Where a content is between disk and batch; null: only on disk. */
export type ResidentState = 'loading' | 'ready' | 'unloading' | null

export interface ResidencyStats {
  readonly residentCount: number
  readonly usedBytes: number
  readonly loadCount: number
  /** Contents that went to make room. */
  readonly evictionCount: number
  /** Uses that found their adapter in the engine. */
  readonly hitCount: number
  /** Uses that wait for a load. */
  readonly waitingCount: number
}

/** Which adapters are in the engine, by content: two ids of one content take its memory once. */
export interface AdapterResidency {
  /**
   * Resolves when the content is in the engine, where it stays until the function returned is
   * called, once. Asks for one content share one load; what fails is tried again for other owners.
   * What is in the engine never waits; what is not waits its turn and for memory that nobody uses.
   * Rejects with what `read` rejects with, with `overloaded` when too many wait, and when the
   * signal is aborted.
   */
  readonly hold: (content: AdapterContent, signal?: AbortSignal) => Promise<() => void>
  /** Nobody uses it or will ask for it again: it goes. */
  readonly discard: (digest: Digest) => Promise<void>
  readonly stateOf: (digest: Digest) => ResidentState
  readonly stats: () => ResidencyStats
}

export interface AdapterResidencyOptions {
  readonly engine: Pick<EngineHandle, 'loadAdapter' | 'unloadAdapter'>
  readonly budgetBytes: number
  /** Uses that may wait for loads; one more is refused as `overloaded`. */
  readonly maxWaitingCount: number
  /** Told after each change of a content's state. */
  readonly onChange: (digest: Digest) => void
  readonly log: Log
}

interface Waiter {
  readonly content: AdapterContent
  load: Load
  readonly resolve: (release: () => void) => void
  readonly reject: (error: unknown) => void
}

interface Load {
  readonly content: AdapterContent
  readonly waiters: Set<Waiter>
  hasBegun: boolean
  isDiscarded: boolean
}

/** Files that are read and converted at once: each takes its size again while it is read. */
const MAX_LOADS_AT_ONCE = 4

const RETRY_AFTER_MS = 1000

export function createAdapterResidency(options: AdapterResidencyOptions): AdapterResidency {
  return new Residency(options)
}

class Residency implements AdapterResidency {
  readonly #options: AdapterResidencyOptions
  readonly #budget: ByteBudget
  /** Queued ones first come, first served; those that have begun stay until they end. */
  readonly #loads = new Map<Digest, Load>()
  readonly #unloads = new Map<Digest, Promise<void>>()
  #runningLoadCount = 0
  #waitingCount = 0
  #loadCount = 0
  #evictionCount = 0
  #hitCount = 0

  constructor(options: AdapterResidencyOptions) {
    this.#options = options
    this.#budget = new ByteBudget(options.budgetBytes)
  }

  hold(content: AdapterContent, signal?: AbortSignal): Promise<() => void> {
    const { digest } = content
    if (signal?.aborted) return Promise.reject(signal.reason)
    const load = this.#loads.get(digest)
    if (load === undefined && this.#budget.has(digest)) {
      this.#hitCount += 1
      return Promise.resolve(this.#use(digest))
    }
    if (this.#waitingCount >= this.#options.maxWaitingCount) {
      const message = 'Too many requests are waiting for their adapters. Try again later.'
      return Promise.reject(
        new BackendError('overloaded', message, { retryAfterMs: RETRY_AFTER_MS }),
      )
    }
    return this.#wait(content, load ?? this.#enqueue(content), signal)
  }

  async discard(digest: Digest): Promise<void> {
    const load = this.#loads.get(digest)
    if (load?.hasBegun) {
      load.isDiscarded = true
    } else if (this.#budget.isIdle(digest)) {
      this.#budget.remove(digest)
      await this.#unload(digest)
      this.#startLoads()
    }
  }

  stateOf(digest: Digest): ResidentState {
    const load = this.#loads.get(digest)
    if (load) return load.hasBegun ? 'loading' : null
    if (this.#budget.has(digest)) return 'ready'
    return this.#unloads.has(digest) ? 'unloading' : null
  }

  stats(): ResidencyStats {
    return {
      residentCount: this.#budget.count,
      usedBytes: this.#budget.usedBytes,
      loadCount: this.#loadCount,
      evictionCount: this.#evictionCount,
      hitCount: this.#hitCount,
      waitingCount: this.#waitingCount,
    }
  }

  #use(digest: Digest): () => void {
    this.#budget.use(digest)
    return () => {
      this.#budget.release(digest)
      this.#startLoads()
    }
  }

  #enqueue(content: AdapterContent): Load {
    const load: Load = { content, waiters: new Set(), hasBegun: false, isDiscarded: false }
    this.#loads.set(content.digest, load)
    queueMicrotask(() => this.#startLoads())
    return load
  }

  async #wait(content: AdapterContent, joined: Load, signal?: AbortSignal): Promise<() => void> {
    joined.isDiscarded = false
    const { promise, resolve, reject } = Promise.withResolvers<() => void>()
    const waiter: Waiter = { content, load: joined, resolve, reject }
    const leave = () => {
      const { load } = waiter
      load.waiters.delete(waiter)
      if (load.waiters.size === 0 && !load.hasBegun) this.#loads.delete(load.content.digest)
      reject(signal?.reason)
      this.#startLoads()
    }
    joined.waiters.add(waiter)
    this.#waitingCount += 1
    signal?.addEventListener('abort', leave, { once: true })
    try {
      return await promise
    } finally {
      this.#waitingCount -= 1
      signal?.removeEventListener('abort', leave)
    }
  }

  /** Begins the loads whose turn it is, as far as memory that nobody uses goes. */
  #startLoads(): void {
    for (const load of this.#loads.values()) {
      if (load.hasBegun) continue
      if (this.#runningLoadCount >= MAX_LOADS_AT_ONCE) return
      const { digest, sizeBytes } = load.content
      const evicted = this.#budget.admit(digest, sizeBytes)
      if (evicted === null) return
      load.hasBegun = true
      this.#evictionCount += evicted.length
      for (const victim of evicted) void this.#unload(victim as Digest) // keys of the budget are digests
      void this.#run(load)
    }
  }

  async #run(load: Load): Promise<void> {
    const { digest } = load.content
    this.#runningLoadCount += 1
    this.#loadCount += 1
    this.#options.onChange(digest)
    try {
      await this.#unloads.get(digest)
      const weights = await load.content.read()
      await this.#options.engine.loadAdapter(weights)
      this.#loads.delete(digest)
      for (const waiter of load.waiters) waiter.resolve(this.#use(digest))
      this.#budget.release(digest)
      if (load.isDiscarded) await this.discard(digest)
    } catch (error) {
      this.#loads.delete(digest)
      this.#budget.remove(digest)
      for (const waiter of load.waiters) {
        if (waiter.content.owner === load.content.owner) waiter.reject(error)
        else this.#loadAgain(waiter)
      }
    } finally {
      this.#runningLoadCount -= 1
      this.#options.onChange(digest)
      this.#startLoads()
    }
  }

  /** For a waiter whose owner's files the load that failed has not read. */
  #loadAgain(waiter: Waiter): void {
    waiter.load = this.#loads.get(waiter.content.digest) ?? this.#enqueue(waiter.content)
    waiter.load.waiters.add(waiter)
  }

  /** Never rejects: an engine that cannot unload is logged. */
  #unload(digest: Digest): Promise<void> {
    const { engine, log, onChange } = this.#options
    const unload = engine
      .unloadAdapter(digest)
      .catch((error: unknown) => {
        log('error', 'adapter_unload_failed', { digest, ...describeThrown(error) })
      })
      .finally(() => {
        this.#unloads.delete(digest)
        onChange(digest)
      })
    this.#unloads.set(digest, unload)
    onChange(digest)
    return unload
  }
}
