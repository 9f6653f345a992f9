import assert from 'node:assert/strict'
import { createSampler, type Sampler } from '../decode/sampler.ts'
import type { EngineParts } from './engine-parts.ts'
import type { EngineErrorCode, EngineEvent, EngineRequest, EngineStats } from './engine-port.ts'
import { KvMemory } from './kv-memory.ts'
import { findMaxSequenceTokens, findRefusal } from './refusal.ts'
import { assertLimits, type PlannedRow, planStep } from './scheduler.ts'
import {
  addStates,
  billPrompt,
  buildStepRow,
  countUsage,
  createSequence,
  forgetPrompt,
  meanState,
  NO_ANSWER,
  NO_USAGE,
  needsEachToken,
  openMask,
  type Sequence,
  takeLogprobs,
  takePromptLogits,
  takeToken,
} from './sequence.ts'
import { sortYielding, type Urgent, urgencyLevel } from './urgency.ts'
import { createWaitingQueue, type WaitingQueue } from './waiting-queue.ts'

const FAULT_MESSAGE = 'The model failed on this request.'

/** Continuous batching over one model. Every submitted request ends with exactly one of `finish`, `cancelled` and `error`. */
export class Engine {
  readonly #parts: EngineParts
  readonly #sampler: Sampler
  readonly #memory: KvMemory
  readonly #maxSequenceTokens: number
  readonly #maxLiveCount: number
  readonly #waiting: WaitingQueue<Sequence>
  /** By request id, in order of admission. */
  readonly #running = new Map<string, Sequence>()
  readonly #live = new Map<string, Sequence>()
  readonly #cancelledIds = new Set<string>()
  #stepCount = 0
  #promptTokenCount = 0
  #completionTokenCount = 0
  #prefixQueryTokenCount = 0
  #prefixHitTokenCount = 0
  #preemptionCount = 0
  #arrivedCount = 0

  constructor(parts: EngineParts) {
    assertLimits(parts.limits)
    const { runner, limits, nowMs } = parts
    assert(
      runner.kvPageTokens % limits.chunkTokens === 0,
      `chunkTokens is ${limits.chunkTokens}, which does not divide a page of ${runner.kvPageTokens}`,
    )
    this.#parts = parts
    this.#sampler = createSampler(runner.vocabSize)
    this.#memory = new KvMemory(runner)
    this.#maxSequenceTokens = findMaxSequenceTokens(runner)
    this.#maxLiveCount = limits.maxRunningCount + limits.maxWaitingCount
    const levelOf = (urgent: Urgent) => this.#levelOf(urgent)
    this.#waiting = createWaitingQueue<Sequence>({
      maxLiveCount: this.#maxLiveCount,
      nowMs,
      levelOf,
    })
  }

  get hasWork(): boolean {
    return this.#live.size > 0
  }

  /** Queues the request, or refuses it with an `error` event at once. Its id must not be live. */
  submit(request: EngineRequest): void {
    const { id } = request
    assert(!this.#live.has(id), `request ${id} is live already`)
    const { runner, adapters, emit } = this.#parts
    const refusal = findRefusal(request, {
      vocabSize: runner.vocabSize,
      maxSequenceTokens: this.#maxSequenceTokens,
      adapters,
    })
    if (refusal !== null) {
      emit({ kind: 'error', id, ...refusal, retryAfterMs: null, usage: NO_USAGE })
      return
    }
    const sequence = this.#createSequence(request)
    if (this.#live.size >= this.#maxLiveCount) {
      const displaced = this.#waiting.findDisplaced(sequence)
      if (displaced === null) {
        emit({ kind: 'error', id, ...this.#overload(), usage: NO_USAGE })
        return
      }
      this.#refuseWaiting(displaced)
    }
    this.#live.set(id, sequence)
    this.#waiting.enter(sequence)
  }

  /** Drops the request before the next step begins; ids that are not live are ignored. */
  cancel(id: string): void {
    if (this.#live.has(id)) this.#cancelledIds.add(id)
  }

  /** One turn: admit → schedule → run → sample → emit → free. Call it again only when it has resolved; it rejects only where the KV cache breaks its contract. */
  async step(): Promise<void> {
    this.#dropCancelled()
    this.#dropOrphans()
    this.#dropExpired()
    this.#growRunning()
    this.#admit()
    const rows = planStep(this.#running.values(), this.#parts.limits)
    if (rows.length === 0) return
    // Masks are found while the model runs.
    const opening = Promise.allSettled(rows.map((row) => this.#openMask(row)))
    const logits = await this.#run(rows)
    const masks = await opening
    if (logits === null) return
    for (const [index, row] of rows.entries()) {
      if (row.sequence.request.embed) this.#embed(row, logits[index] ?? null)
      else this.#takeRow(row, logits[index] ?? null, masks[index])
    }
  }

  get stats(): EngineStats {
    return {
      runningCount: this.#running.size,
      waitingCount: this.#waiting.size(),
      stepCount: this.#stepCount,
      promptTokenCount: this.#promptTokenCount,
      completionTokenCount: this.#completionTokenCount,
      prefixQueryTokenCount: this.#prefixQueryTokenCount,
      prefixHitTokenCount: this.#prefixHitTokenCount,
      preemptionCount: this.#preemptionCount,
      kvUsedTokens: this.#memory.usedTokens,
      kvCachedTokens: this.#memory.cachedTokens,
      kvTotalTokens: this.#memory.totalTokens,
      loadedAdapterCount: this.#parts.adapters.size,
    }
  }

  #createSequence(request: EngineRequest): Sequence {
    const { runner, tokenBytes, nowMs, modelDigest, prefixSharing } = this.#parts
    const serial = this.#arrivedCount++
    const { tenant, adapter } = request
    const sharedBy = {
      tenant: `tenant ${tenant}`,
      everyone: 'everyone',
      nobody: `request ${serial}`,
    }[prefixSharing]
    return createSequence(request, {
      serial,
      atMs: nowMs(),
      tokenBytes,
      pageTokens: runner.kvPageTokens,
      scope: { sharedBy, model: modelDigest, adapter },
    })
  }

  #levelOf(urgent: Urgent): number {
    return urgencyLevel(urgent, this.#parts.nowMs(), this.#parts.limits.promoteAfterMs)
  }

  #dropCancelled(): void {
    for (const id of this.#cancelledIds) {
      const sequence = this.#live.get(id)
      if (sequence === undefined) continue
      this.#end(sequence, { kind: 'cancelled', id, usage: countUsage(sequence) })
    }
  }

  /** A sequence whose adapter is gone would fail the whole step. */
  #dropOrphans(): void {
    for (const sequence of this.#live.values()) {
      if (!this.#hasAdapter(sequence.request)) {
        this.#fail(sequence, 'adapter_missing', 'The adapter was unloaded.')
      }
    }
  }

  #dropExpired(): void {
    const { nowMs, limits } = this.#parts
    const expired = this.#waiting.listOlderThan(nowMs() - limits.maxWaitMs)
    for (const sequence of expired) this.#refuseWaiting(sequence)
  }

  /** Gives a page to each running sequence whose next token needs one, the most urgent first; where there is none, the least urgent give way. */
  #growRunning(): void {
    const yielding = sortYielding(this.#running.values(), (sequence) => this.#levelOf(sequence))
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
  #admit(): void {
    for (let next = this.#waiting.next(); next !== null; next = this.#waiting.next()) {
      const capacityTokens = this.#planCapacity(next)
      if (!this.#makeRoom(next, capacityTokens)) return
      this.#start(next, capacityTokens)
    }
  }

  /** What is known already and head-room of a page, not the whole answer: most end long before their limit. */
  #planCapacity({ request, promptTokenCount, knownTokenCount }: Sequence): number {
    const most = promptTokenCount + request.maxTokens
    return Math.min(most, knownTokenCount + this.#parts.runner.kvPageTokens)
  }

  /** True when there is a place and memory, if need be after less urgent sequences gave way: as few as will do, none if all would not. */
  #makeRoom(next: Sequence, capacityTokens: number): boolean {
    const { maxRunningCount } = this.#parts.limits
    const level = this.#levelOf(next)
    const victims: Sequence[] = []
    let releasedCount = 0
    const isEnough = () =>
      this.#running.size - victims.length < maxRunningCount &&
      this.#memory.hasRoom(capacityTokens, releasedCount)
    if (isEnough()) return true
    for (const victim of sortYielding(this.#running.values(), (other) => this.#levelOf(other))) {
      if (this.#levelOf(victim) <= level) return false
      victims.push(victim)
      releasedCount += victim.kv?.pages.length ?? 0
      if (!isEnough()) continue
      for (const chosen of victims) this.#preempt(chosen)
      return true
    }
    return false
  }

  #start(sequence: Sequence, capacityTokens: number): void {
    const { knownTokenCount, pageKeyOf, tenant, promptTokenCount } = sequence
    // The last known token is run in any case, for its logits.
    const findCount = needsEachToken(sequence)
      ? 0
      : Math.floor((knownTokenCount - 1) / this.#parts.runner.kvPageTokens)
    sequence.kv = this.#memory.open(capacityTokens, pageKeyOf, findCount)
    this.#waiting.admit(sequence)
    this.#running.set(sequence.request.id, sequence)
    this.#promptTokenCount += billPrompt(sequence)
    if (sequence.cachedTokenCount !== null) return
    sequence.cachedTokenCount = sequence.computedCount
    this.#prefixQueryTokenCount += promptTokenCount
    this.#prefixHitTokenCount += sequence.cachedTokenCount
    this.#waiting.chargePrompt(tenant, promptTokenCount - sequence.cachedTokenCount)
  }

  /** Takes the sequence's memory; it waits, and goes on where it was. All its full pages stay findable until others need them. */
  #preempt(sequence: Sequence): void {
    this.#release(sequence, Number.POSITIVE_INFINITY)
    forgetPrompt(sequence)
    this.#preemptionCount++
    this.#waiting.reenter(sequence)
  }

  #release(sequence: Sequence, keptPageCount: number): void {
    if (sequence.kv === null) return
    this.#memory.close(sequence.kv, sequence.pageKeyOf, keptPageCount)
    sequence.kv = null
    this.#running.delete(sequence.request.id)
  }

  /** Pages of the prompt alone, run in whole chunks: what later requests can begin with. */
  #countPromptPages({ promptTokenCount }: Sequence): number {
    return Math.floor(promptTokenCount / this.#parts.runner.kvPageTokens)
  }

  #hasAdapter({ adapter }: EngineRequest): boolean {
    return adapter === null || this.#parts.adapters.has(adapter)
  }

  /** The logits of the rows; null when the run failed, and its sequences with it. */
  async #run(rows: readonly PlannedRow<Sequence>[]) {
    this.#stepCount++
    try {
      const logits = await this.#parts.runner.run(rows.map(buildStepRow))
      for (const { sequence } of rows) this.#noteComputed(sequence)
      return logits
    } catch (error) {
      this.#parts.onFault(
        error,
        rows.map(({ sequence }) => sequence.request.id),
      )
      for (const { sequence } of rows) this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
      return null
    }
  }

  #noteComputed(sequence: Sequence): void {
    this.#promptTokenCount += billPrompt(sequence)
    if (sequence.kv === null) return
    this.#memory.label(sequence.kv, sequence.pageKeyOf, this.#countPromptPages(sequence))
  }

  /** Takes the states of a prompt's chunk; its last ends the sequence. */
  #embed({ sequence, wantsToken }: PlannedRow<Sequence>, states: Float32Array | null): void {
    const { id } = sequence.request
    if (states === null || !states.every(Number.isFinite)) {
      this.#parts.onFault(new Error('the runner gave no finite states'), [id])
      this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
      return
    }
    addStates(sequence, states)
    if (!wantsToken) return
    const embedding = meanState(sequence)
    const usage = countUsage(sequence)
    this.#end(sequence, {
      kind: 'finish',
      id,
      reason: 'stop',
      text: '',
      logprobs: [],
      usage,
      embedding,
    })
  }

  async #openMask({ sequence, wantsToken }: PlannedRow<Sequence>): Promise<Int32Array | null> {
    return wantsToken ? openMask(sequence, this.#parts.openGrammar) : null
  }

  /** A fault in one sequence (NaN logits, a failed assertion) ends that sequence alone. */
  #takeRow(
    { sequence, tokenCount, wantsToken }: PlannedRow<Sequence>,
    logits: Float32Array | null,
    mask: PromiseSettledResult<Int32Array | null> | undefined,
  ): void {
    try {
      const last = logits && takePromptLogits(sequence, tokenCount, logits)
      if (!wantsToken) return
      assert(last !== null, 'the runner gave no logits for a row that wants them')
      if (mask?.status === 'rejected') throw mask.reason
      this.#answer(sequence, last, mask?.value ?? null)
    } catch (error) {
      this.#parts.onFault(error, [sequence.request.id])
      this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
    }
  }

  #answer(sequence: Sequence, logits: Float32Array, mask: Int32Array | null): void {
    const { id, maxTokens } = sequence.request
    const { tokenId, token, finish } =
      maxTokens === 0 ? NO_ANSWER : this.#sample(sequence, logits, mask)
    const measured = takeLogprobs(sequence, logits, token && tokenId)
    if (token !== null) {
      this.#parts.emit({ kind: 'token', id, tokenId, text: token.text, logprobs: measured })
    }
    if (finish === null) return
    const logprobs = token === null ? measured : []
    this.#end(sequence, { kind: 'finish', id, ...finish, logprobs, usage: countUsage(sequence) })
  }

  #sample(sequence: Sequence, logits: Float32Array, mask: Int32Array | null) {
    const tokenId = this.#sampler.sample(logits, sequence.history, mask)
    this.#completionTokenCount++
    this.#waiting.chargeToken(sequence.request.tenant)
    return { tokenId, ...takeToken(sequence, tokenId) }
  }

  #fail(sequence: Sequence, code: EngineErrorCode, message: string): void {
    const { id } = sequence.request
    const usage = countUsage(sequence)
    this.#end(sequence, { kind: 'error', id, code, message, retryAfterMs: null, usage })
  }

  /** Refuses a request that was never admitted. */
  #refuseWaiting(sequence: Sequence): void {
    const usage = countUsage(sequence)
    this.#end(sequence, { kind: 'error', id: sequence.request.id, ...this.#overload(), usage })
  }

  #overload() {
    const retryAfterMs = this.#waiting.promisePlaceMs()
    const message = 'Too many requests are waiting. Try again later.'
    return { code: 'overloaded', message, retryAfterMs } as const
  }

  /** The one place where an accepted request ends. */
  #end(sequence: Sequence, event: EngineEvent): void {
    const { id, tenant } = sequence.request
    this.#release(sequence, this.#countPromptPages(sequence))
    sequence.matcher?.dispose()
    this.#waiting.remove(sequence)
    this.#live.delete(id)
    this.#cancelledIds.delete(id)
    this.#waiting.noteEnd(tenant)
    this.#parts.emit(event)
  }
}
