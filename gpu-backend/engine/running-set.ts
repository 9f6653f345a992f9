import assert from 'node:assert/strict'
import type { Accounting } from './accounting.ts'
import { awaitsLeader } from './choice-group.ts'
import { planVictims, rankYielding, Shares } from './equal-share.ts'
import { KvMemory } from './kv-memory.ts'
import type { ModelRunner } from './model-runner.ts'
import { countFindablePages, forgetPrompt, type Sequence } from './sequence.ts'
import { tierLevel } from './urgency.ts'
import type { Standing, WaitingQueue } from './waiting-queue.ts'

export interface RunningSetParts {
  readonly runner: ModelRunner
  readonly maxRunningCount: number
  readonly waiting: WaitingQueue<Sequence>
  readonly accounting: Accounting
  /** By tier and age. */
  readonly agedLevelOf: (sequence: Sequence) => number
}

interface RunningStanding extends Standing<Sequence> {
  readonly shares: Shares
  /** Whether the tenant has more than an equal share, and so much that others feel it. */
  readonly floods: (tenant: string) => boolean
}

/** Of places or KV memory. */
const FLOOD_SHARE = 1 / 8

/** The sequences that hold KV memory: who gets it, who has to give it up. */
export class RunningSet {
  readonly #parts: RunningSetParts
  readonly #memory: KvMemory
  /** By request id, in order of admission. */
  readonly #running = new Map<string, Sequence>()

  constructor(parts: RunningSetParts) {
    this.#parts = parts
    this.#memory = new KvMemory(parts.runner)
  }

  get count(): number {
    return this.#running.size
  }

  get memory(): Pick<KvMemory, 'usedTokens' | 'cachedTokens' | 'totalTokens'> {
    return this.#memory
  }

  sequences(): Iterable<Sequence> {
    return this.#running.values()
  }

  /**
   * What tenants have now, and what their requests may ask for by it. Age makes a request more urgent
   * than other tenants' only while its own has no more than an equal share: who floods waits by its
   * own doing, and starves nobody by it.
   */
  standing(): RunningStanding {
    const { maxRunningCount, runner, waiting, agedLevelOf } = this.#parts
    const capacity = { placeCount: maxRunningCount, pageCount: runner.kvPageCount }
    const shares = new Shares(this.#running.values(), capacity)
    const equalShare = 1 / waiting.tenantCount()
    const levelOf = (sequence: Sequence) =>
      shares.isAbove(equalShare, sequence.tenant) ? tierLevel(sequence.tier) : agedLevelOf(sequence)
    const floods = (tenant: string) => shares.isAbove(Math.max(equalShare, FLOOD_SHARE), tenant)
    return { shares, shareOf: (tenant: string) => shares.of(tenant), levelOf, floods }
  }

  /** Gives a page to each running sequence whose next token needs one, those first that give way last. */
  grow(): void {
    const ranked = this.#rankYielding(this.standing())
    for (const { holder } of ranked.toReversed()) {
      if (holder.held !== null) continue
      while (holder.kv !== null && holder.computedCount === holder.kv.row.capacity) {
        if (this.#memory.grow(holder.kv)) break
        const victim = ranked.find(({ holder: { kv } }) => kv !== null)
        assert(victim !== undefined, 'who holds no memory gives none')
        this.#preempt(victim.holder)
      }
    }
  }

  /**
   * Takes places and KV memory for as many as fit, strictly in turn: a large request is not overtaken by
   * small ones. Only a choice whose prompt another of its request is computing lets others go first.
   */
  admit(): void {
    const displaced = new Set<Sequence>()
    for (;;) {
      const next = this.#parts.waiting.next(this.standing(), awaitsLeader)
      if (next === null) return
      const capacityTokens = this.#planCapacity(next)
      if (!this.#makeRoom(next, capacityTokens, displaced)) return
      this.#start(next, capacityTokens)
    }
  }

  /** Part of the sequence was computed: later sequences can find what of its prompt is in full pages. */
  noteComputed(sequence: Sequence): void {
    this.#parts.accounting.noteComputed(sequence)
    if (sequence.kv === null) return
    this.#memory.label(sequence.kv, sequence.pageKeyOf, this.#countPromptPages(sequence))
  }

  /** Takes the memory of a sequence that ends; one that holds none changes nothing. */
  release(sequence: Sequence): void {
    this.#close(sequence, this.#countPromptPages(sequence))
  }

  /** What is known already and head-room of a page, not the whole answer: most end long before their limit. */
  #planCapacity({ request, promptTokenCount, knownTokenCount }: Sequence): number {
    const most = promptTokenCount + request.maxTokens
    return Math.min(most, knownTokenCount + this.#parts.runner.kvPageTokens)
  }

  /** True when there is a place and memory, if need be after others gave way; those of `displaced` ask nobody to. */
  #makeRoom(next: Sequence, capacityTokens: number, displaced: Set<Sequence>): boolean {
    const { maxRunningCount } = this.#parts
    const isEnough = (victims: readonly Sequence[]) =>
      this.#running.size - victims.length < maxRunningCount &&
      this.#memory.hasRoom(
        capacityTokens,
        victims.reduce((sum, { pageCount }) => sum + pageCount, 0),
      )
    if (isEnough([])) return true
    if (displaced.has(next)) return false
    const standing = this.standing()
    const pageCount = this.#memory.countPages(capacityTokens)
    const newcomer = { holder: next, pageCount, levelOf: standing.levelOf }
    const victims = planVictims(newcomer, this.#rankYielding(standing), standing.shares, isEnough)
    for (const victim of victims ?? []) {
      this.#preempt(victim)
      displaced.add(victim)
    }
    return victims !== null
  }

  #rankYielding({ shares, levelOf }: RunningStanding) {
    return rankYielding(this.#running.values(), shares, levelOf)
  }

  #start(sequence: Sequence, capacityTokens: number): void {
    const { pageKeyOf, request } = sequence
    const findCount = countFindablePages(sequence, this.#parts.runner.kvPageTokens)
    sequence.kv = this.#memory.open(capacityTokens, pageKeyOf, findCount)
    this.#parts.waiting.admit(sequence)
    this.#running.set(request.id, sequence)
    this.#parts.accounting.noteAdmission(sequence)
  }

  /** Takes the sequence's memory; it waits, and goes on where it was. All its full pages stay findable until others need them. */
  #preempt(sequence: Sequence): void {
    this.#close(sequence, Number.POSITIVE_INFINITY)
    forgetPrompt(sequence)
    this.#parts.accounting.notePreemption()
    this.#parts.waiting.reenter(sequence)
  }

  #close(sequence: Sequence, keptPageCount: number): void {
    if (sequence.kv === null) return
    this.#memory.close(sequence.kv, sequence.pageKeyOf, keptPageCount)
    sequence.kv = null
    sequence.held = null
    this.#running.delete(sequence.request.id)
  }

  /** Pages of the prompt alone, run in whole chunks: what later requests can begin with. */
  #countPromptPages({ promptTokenCount }: Sequence): number {
    return Math.floor(promptTokenCount / this.#parts.runner.kvPageTokens)
  }
}
