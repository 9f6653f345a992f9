import assert from 'node:assert/strict'
import type { Accounting } from './accounting.ts'
import { KvMemory } from './kv-memory.ts'
import type { ModelRunner } from './model-runner.ts'
import { forgetPrompt, needsEachToken, type Sequence } from './sequence.ts'
import { sortYielding } from './urgency.ts'
import type { WaitingQueue } from './waiting-queue.ts'

export interface RunningSetParts {
  readonly runner: ModelRunner
  readonly maxRunningCount: number
  readonly waiting: WaitingQueue<Sequence>
  readonly accounting: Accounting
  readonly levelOf: (sequence: Sequence) => number
}

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

  /** Gives a page to each running sequence whose next token needs one, the most urgent first; where there is none, the least urgent give way. */
  grow(): void {
    const yielding = sortYielding(this.#running.values(), this.#parts.levelOf)
    for (const sequence of yielding.toReversed()) {
      while (sequence.kv !== null && sequence.computedCount === sequence.kv.row.capacity) {
        if (this.#memory.grow(sequence.kv)) break
        const victim = yielding.find(({ kv }) => kv !== null)
        assert(victim !== undefined, 'who holds no memory gives none')
        this.#preempt(victim)
      }
    }
  }

  /** Takes KV memory for as many as fit, strictly in turn: a large request is not overtaken by small ones. */
  admit(): void {
    for (let next = this.#parts.waiting.next(); next !== null; next = this.#parts.waiting.next()) {
      const capacityTokens = this.#planCapacity(next)
      if (!this.#makeRoom(next, capacityTokens)) return
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

  /** True when there is a place and memory, if need be after less urgent sequences gave way: as few as will do, none if all would not. */
  #makeRoom(next: Sequence, capacityTokens: number): boolean {
    const { maxRunningCount } = this.#parts
    const level = this.#parts.levelOf(next)
    const victims: Sequence[] = []
    let releasedCount = 0
    const isEnough = () =>
      this.#running.size - victims.length < maxRunningCount &&
      this.#memory.hasRoom(capacityTokens, releasedCount)
    if (isEnough()) return true
    for (const victim of sortYielding(this.#running.values(), this.#parts.levelOf)) {
      if (this.#parts.levelOf(victim) <= level) return false
      victims.push(victim)
      releasedCount += victim.kv?.pages.length ?? 0
      if (!isEnough()) continue
      for (const chosen of victims) this.#preempt(chosen)
      return true
    }
    return false
  }

  #start(sequence: Sequence, capacityTokens: number): void {
    const { knownTokenCount, pageKeyOf, request } = sequence
    // The last known token is run in any case, for its logits.
    const findCount = needsEachToken(sequence)
      ? 0
      : Math.floor((knownTokenCount - 1) / this.#parts.runner.kvPageTokens)
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
    this.#running.delete(sequence.request.id)
  }

  /** Pages of the prompt alone, run in whole chunks: what later requests can begin with. */
  #countPromptPages({ promptTokenCount }: Sequence): number {
    return Math.floor(promptTokenCount / this.#parts.runner.kvPageTokens)
  }
}
