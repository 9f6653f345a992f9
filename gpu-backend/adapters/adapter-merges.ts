import { type AdapterMerge, digestMerge, orderMembers } from '../../protocol/adapter-merge.ts'
import type { Digest } from '../../protocol/digest.ts'
import type { BackendError } from '../errors.ts'
import type { AdapterResidency } from './adapter-residency.ts'
import type { AdapterSources } from './adapter-sources.ts'
import { type AdapterVersion, type AdapterVersions, toLoadError } from './adapter-versions.ts'
import type { LoraWeights } from './lora-weights.ts'
import { mergeLora, rejectMerge } from './merge-lora.ts'

export interface WeighedVersion {
  readonly version: AdapterVersion
  readonly weightPpm: number
}

/** A merged adapter in the engine, until it is released. */
export interface MergeLease {
  readonly digest: Digest
  readonly merge: AdapterMerge
  readonly members: readonly WeighedVersion[]
  /** Call once, when the request has ended. */
  readonly release: () => void
}

export interface AdapterMergesOptions {
  readonly versions: Pick<AdapterVersions, 'keep' | 'noteChange'>
  readonly residency: AdapterResidency
  readonly sources: Pick<AdapterSources, 'hold' | 'read'>
  readonly ramBudgetBytes: number
  readonly now: () => number
}

type MergeRule = Pick<AdapterMerge, 'method' | 'densityPpm'>

/** After a failure, requests get the same answer for so long, without another try. */
const RETRY_AFTER_MS = 5_000

/** Failures that are remembered at once. */
const MAX_FAILURE_COUNT = 1_000

/**
 * Merged adapters: contents like others, in the same memory, named by what they are made of. A merge
 * is made of its members' files by the first request that asks for it, and is made anew after it had
 * to make room.
 */
export class AdapterMerges {
  readonly #options: AdapterMergesOptions
  /** Of the merges in memory or on their way there. */
  readonly #membersOf = new Map<Digest, ReadonlySet<Digest>>()
  readonly #failures = new Map<Digest, { readonly error: BackendError; readonly atMs: number }>()

  constructor(options: AdapterMergesOptions) {
    this.#options = options
  }

  /** Keeps the members from going before it waits for anything. Throws `adapter_rejected`. */
  async lease(
    weighed: readonly WeighedVersion[],
    rule: MergeRule,
    signal?: AbortSignal,
  ): Promise<MergeLease> {
    const members = orderMembers(
      weighed.map(({ version, weightPpm }) => {
        const { digest, owner } = version
        return { digest, owner, weightPpm, version }
      }),
    )
    const merge: AdapterMerge = {
      ...rule,
      members: members.map(({ digest, owner, weightPpm }) => ({ digest, owner, weightPpm })),
    }
    const digest = digestMerge(merge)
    const releases = members.map(({ version }) => this.#options.versions.keep(version))
    try {
      releases.push(await this.#bringIn(digest, members, rule, signal))
    } catch (error) {
      for (const release of releases) release()
      throw error
    }
    return {
      digest,
      merge,
      members,
      release: () => {
        for (const release of releases) release()
      },
    }
  }

  /** To be called after a content's tier has changed. */
  noteChange(digest: Digest): void {
    if (this.#options.residency.stateOf(digest) === null) this.#membersOf.delete(digest)
  }

  /** An adapter's content is gone for good, and what was made of it goes too. */
  async forgetMember(member: Digest): Promise<void> {
    for (const [digest, members] of this.#membersOf) {
      if (members.has(member)) await this.#options.residency.discard(digest)
    }
  }

  async #bringIn(
    digest: Digest,
    members: readonly WeighedVersion[],
    rule: MergeRule,
    signal?: AbortSignal,
  ): Promise<() => void> {
    const { residency, ramBudgetBytes, now } = this.#options
    const content = {
      digest,
      sizeBytes: members.reduce((sum, { version }) => sum + version.sizeBytes, 0),
      owner: members[0]?.version ?? this,
      read: () => this.#make(digest, members, rule),
    }
    if (residency.stateOf(digest) === 'ready') return residency.hold(content, signal)
    const limit = Math.floor(ramBudgetBytes / 2)
    if (content.sizeBytes > limit) {
      const room = `at most ${limit}, half of ADAPTER_RAM_BYTES, are loaded`
      throw rejectMerge(`they take ${content.sizeBytes} bytes of memory, and ${room}`)
    }
    const failure = this.#failures.get(digest)
    if (failure && now() - failure.atMs < RETRY_AFTER_MS) throw failure.error
    this.#failures.delete(digest)
    const releases: (() => void)[] = []
    try {
      for (const { version } of members) releases.push(await this.#holdFiles(version))
      this.#membersOf.set(digest, new Set(members.map(({ version }) => version.digest)))
      return await residency.hold(content, signal)
    } catch (thrown) {
      this.noteChange(digest)
      if (signal?.aborted) throw thrown
      const error = explain(thrown)
      if (error.code !== 'overloaded') this.#noteFailure(digest, error)
      throw error
    } finally {
      for (const release of releases) release()
    }
  }

  #holdFiles(version: AdapterVersion): Promise<() => void> {
    const { sources, versions } = this.#options
    return sources.hold(version, () => versions.noteChange(version.digest))
  }

  async #make(
    digest: Digest,
    members: readonly WeighedVersion[],
    rule: MergeRule,
  ): Promise<LoraWeights> {
    const weighed: { weights: LoraWeights; weightPpm: number }[] = []
    for (const { version, weightPpm } of members) {
      weighed.push({ weights: await this.#options.sources.read(version), weightPpm })
    }
    return mergeLora(weighed, rule, digest)
  }

  #noteFailure(digest: Digest, error: BackendError): void {
    const [oldest] = this.#failures.keys()
    if (oldest && this.#failures.size >= MAX_FAILURE_COUNT) this.#failures.delete(oldest)
    this.#failures.set(digest, { error, atMs: this.#options.now() })
  }
}

/** What is wrong with one adapter's files keeps its words, and names the request's field. */
function explain(thrown: unknown): BackendError {
  const error = toLoadError(thrown)
  if (error.code !== 'adapter_rejected' || error.param === 'tallygate.adapters') return error
  return rejectMerge(error.message.replace(/\.$/, ''), error)
}
