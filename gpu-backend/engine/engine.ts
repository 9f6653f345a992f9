import assert from 'node:assert/strict'
import { createSampler, type Sampler } from '../decode/sampler.ts'
import { Accounting } from './accounting.ts'
import { createChoiceGroup, shareBeginnings } from './choice-group.ts'
import type { EngineParts } from './engine-parts.ts'
import type { EngineErrorCode, EngineEvent, EngineRequest, EngineStats } from './engine-port.ts'
import { takeTurns } from './prompt-turns.ts'
import { findMaxSequenceTokens, findRefusal, type Refusal } from './refusal.ts'
import { type RowEvent, takeRow } from './row-events.ts'
import { RunningSet } from './running-set.ts'
import { assertLimits, type PlannedRow, planStep } from './scheduler.ts'
import {
  buildStepRow,
  type ChoiceGroup,
  countUsage,
  createSequence,
  findMask,
  NO_USAGE,
  type Sequence,
  seekMask,
} from './sequence.ts'
import { listForStep } from './short-step.ts'
import { type Urgent, urgencyLevel } from './urgency.ts'
import { createWaitingQueue, type WaitingQueue } from './waiting-queue.ts'

const FAULT_MESSAGE = 'The model failed on this request.'

/** Whoever waits further behind than this is not told where. */
const TOLD_WAITING_COUNT = 1_000

/** A tenant that asked for little may be ahead of the others by the tokens of so many steps. */
const BURST_STEPS = 8

/** Who floods is left out of so many steps in a row. */
const MAX_SHORT_STEPS = 4

type Row = PlannedRow<Sequence>

/** Continuous batching over one model. Every submitted request ends with exactly one of `finish`, `cancelled` and `error`. */
export class Engine {
  readonly #parts: EngineParts
  readonly #sampler: Sampler
  readonly #maxSequenceTokens: number
  readonly #maxLiveCount: number
  readonly #waiting: WaitingQueue<Sequence>
  readonly #running: RunningSet
  readonly #accounting: Accounting
  readonly #live = new Map<string, Sequence>()
  readonly #cancelledIds = new Set<string>()
  #arrivedCount = 0
  /** Steps since the latest that left nobody out. */
  #shortStepCount = 0

  constructor(parts: EngineParts) {
    assertLimits(parts.limits)
    const { runner, limits, nowMs } = parts
    const { maxRunningCount, maxWaitingCount, chunkTokens } = limits
    assert(
      runner.kvPageTokens % chunkTokens === 0,
      `chunkTokens is ${chunkTokens}, which does not divide a page of ${runner.kvPageTokens}`,
    )
    this.#parts = parts
    this.#sampler = createSampler(runner.vocabSize)
    this.#maxSequenceTokens = findMaxSequenceTokens(runner)
    this.#maxLiveCount = maxRunningCount + maxWaitingCount
    const levelOf = (urgent: Urgent) => this.#levelOf(urgent)
    const waiting = createWaitingQueue<Sequence>({
      maxLiveCount: this.#maxLiveCount,
      burstTokens: BURST_STEPS * (maxRunningCount + chunkTokens),
      nowMs,
      levelOf,
    })
    const accounting = new Accounting(waiting)
    this.#waiting = waiting
    this.#accounting = accounting
    this.#running = new RunningSet({
      runner,
      maxRunningCount,
      waiting,
      accounting,
      agedLevelOf: levelOf,
    })
  }

  get hasWork(): boolean {
    return this.#live.size > 0
  }

  /**
   * One turn: admit → schedule → run → sample → emit → free. Call it again only when it has resolved; it
   * rejects only where the KV cache breaks its contract. False when all that could run waits for masks:
   * call it again a little later.
   */
  async step(): Promise<boolean> {
    this.#dropCancelled()
    this.#dropOrphans()
    this.#dropExpired()
    for (const { held } of [...this.#running.sequences()]) {
      if (held !== null) this.#takeRow(held.row, held.output)
    }
    this.#running.grow()
    this.#running.admit()
    const rows = this.#planStep()
    if (rows.length === 0) return this.#running.count === 0
    for (const { sequence } of rows) seekMask(sequence, this.#parts.openGrammar)
    const outputs = await this.#run(rows)
    outputs?.forEach((output, index) => {
      const row = rows[index]
      if (row !== undefined) this.#takeRow(row, output)
    })
    return true
  }

  /**
   * Queues the requests of one caller, all or none: refused ones get an `error` event each at once.
   * None of their ids may be live. They have a place each; embeddings, of which nothing is told before
   * all are done, have as many as can run at once and take them in turns.
   */
  submit(...requests: readonly EngineRequest[]): void {
    for (const { id } of requests) assert(!this.#live.has(id), `request ${id} is live already`)
    const refusal = this.#findRefusal(requests)
    if (refusal !== null) {
      this.#refuse(requests, { ...refusal, retryAfterMs: null })
      return
    }
    const sequences = this.#createSequences(requests)
    const placed = sequences.slice(0, this.#countPlaces(requests))
    const lackCount =
      this.#running.count + this.#waiting.size() + placed.length - this.#maxLiveCount
    const [first] = placed
    if (first === undefined) return
    const displaced = this.#waiting.findDisplaced({ first, count: placed.length, lackCount })
    if (displaced === null) {
      this.#refuse(requests, this.#overload(lackCount))
      return
    }
    for (const { group } of displaced) this.#refuseWaiting(group)
    shareBeginnings(sequences, this.#parts.runner.kvPageTokens)
    for (const sequence of sequences) this.#live.set(sequence.request.id, sequence)
    for (const sequence of sequences.slice(placed.length)) first.group.placeless.add(sequence)
    for (const sequence of placed) this.#waiting.enter(sequence)
  }

  /** Drops the request before the next step begins; ids that are not live are ignored. */
  cancel(id: string): void {
    if (this.#live.has(id)) this.#cancelledIds.add(id)
  }

  get stats(): EngineStats {
    const { usedTokens, cachedTokens, totalTokens } = this.#running.memory
    return {
      ...this.#accounting.counts,
      runningCount: this.#running.count,
      waitingCount: this.#waiting.size(),
      waitingIds: this.#waiting.listFirst(TOLD_WAITING_COUNT).map(({ request }) => request.id),
      kvUsedTokens: usedTokens,
      kvCachedTokens: cachedTokens,
      kvTotalTokens: totalTokens,
      loadedAdapterCount: this.#parts.adapters.size,
    }
  }

  /** Why none of the requests can ever run; null when all can. */
  #findRefusal(requests: readonly EngineRequest[]): Refusal | null {
    const { runner, adapters, limits } = this.#parts
    const model = {
      vocabSize: runner.vocabSize,
      maxSequenceTokens: this.#maxSequenceTokens,
      adapters,
    }
    if (this.#countPlaces(requests) > limits.maxWaitingCount) {
      const message = `${requests.length} requests together, and the queue holds ${limits.maxWaitingCount}`
      return { code: 'internal_error', message }
    }
    for (const request of requests) {
      const refusal = findRefusal(request, model)
      if (refusal !== null) return refusal
    }
    return null
  }

  #countPlaces(requests: readonly EngineRequest[]): number {
    const { maxRunningCount, maxWaitingCount } = this.#parts.limits
    const isTold = requests.some(({ embed }) => embed !== true)
    return isTold ? requests.length : Math.min(requests.length, maxRunningCount, maxWaitingCount)
  }

  #createSequences(requests: readonly EngineRequest[]): readonly Sequence[] {
    const { runner, tokenBytes, nowMs, modelDigest, prefixSharing } = this.#parts
    const group = createChoiceGroup()
    const firstSerial = this.#arrivedCount
    return requests.map((request) => {
      const { tenant, adapter } = request
      const sharedBy = {
        tenant: `tenant ${tenant}`,
        everyone: 'everyone',
        nobody: `request ${firstSerial}`,
      }[prefixSharing]
      return createSequence(request, {
        serial: this.#arrivedCount++,
        group,
        atMs: nowMs(),
        tokenBytes,
        pageTokens: runner.kvPageTokens,
        scope: { sharedBy, model: modelDigest, adapter },
      })
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
    for (const group of new Set(expired.map((sequence) => sequence.group)))
      this.#refuseWaiting(group)
  }

  #hasAdapter({ adapter }: EngineRequest): boolean {
    return adapter === null || this.#parts.adapters.has(adapter)
  }

  #planStep(): readonly Row[] {
    const { limits } = this.#parts
    const { levelOf, floods } = this.#running.standing()
    const rights = {
      agedLevelOf: (sequence: Sequence) => this.#levelOf(sequence),
      levelOf,
      floods,
      usedBy: this.#waiting.usedBy,
      passedOverCount: this.#waiting.chunksSince,
      maxPassedOverCount: limits.maxRunningCount,
    }
    const running = [...this.#running.sequences()].filter(({ held }) => held === null)
    const chosen = this.#shortStepCount < MAX_SHORT_STEPS ? listForStep(running, rights) : running
    this.#shortStepCount = chosen.length < running.length ? this.#shortStepCount + 1 : 0
    return planStep(chosen, limits, (prompts) => takeTurns(prompts, rights))
  }

  /** The outputs of the rows; null when the run failed, and its sequences with it. */
  async #run(rows: readonly Row[]) {
    this.#accounting.noteStep()
    try {
      const outputs = await this.#parts.runner.run(rows.map(buildStepRow))
      for (const { sequence } of rows) this.#running.noteComputed(sequence)
      return outputs
    } catch (error) {
      this.#parts.onFault(
        error,
        rows.map(({ sequence }) => sequence.request.id),
      )
      for (const { sequence } of rows) this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
      return null
    }
  }

  /**
   * Emits what a row says that was run, or holds it until its mask is known. A fault in one sequence (NaN
   * logits, a failed assertion) ends that sequence alone.
   */
  #takeRow(row: Row, output: Float32Array | null): void {
    const { sequence } = row
    for (const event of this.#readRow(row, output)) {
      if (event.kind === 'finish') this.#end(sequence, event)
      else this.#parts.emit(event)
    }
  }

  #readRow(row: Row, output: Float32Array | null): readonly RowEvent[] {
    const { sequence, wantsToken } = row
    try {
      const mask = wantsToken ? findMask(sequence) : null
      sequence.held = mask === 'awaited' ? { row, output: output?.slice() ?? null } : null
      if (mask === 'awaited') return []
      return takeRow(row, output, (logits) => this.#sample(sequence, logits, mask))
    } catch (error) {
      this.#parts.onFault(error, [sequence.request.id])
      this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
      return []
    }
  }

  #sample(sequence: Sequence, logits: Float32Array, mask: Int32Array | null): number {
    const tokenId = this.#sampler.sample(logits, sequence.history, mask)
    this.#accounting.noteSampled(sequence)
    return tokenId
  }

  #fail(sequence: Sequence, code: EngineErrorCode, message: string): void {
    const { id } = sequence.request
    const usage = countUsage(sequence)
    this.#end(sequence, { kind: 'error', id, code, message, retryAfterMs: null, usage })
  }

  /** Refuses all of a group that has not begun. */
  #refuseWaiting(group: ChoiceGroup): void {
    const sequences = [...this.#live.values()].filter((sequence) => sequence.group === group)
    const overload = this.#overload(sequences.length - group.placeless.size)
    // Those without a place first, so that none takes one over.
    for (const sequence of sequences.toReversed()) {
      const usage = countUsage(sequence)
      this.#end(sequence, { kind: 'error', id: sequence.request.id, ...overload, usage })
    }
  }

  #refuse(requests: readonly EngineRequest[], refusal: Refusal & { retryAfterMs: number | null }) {
    for (const { id } of requests) {
      this.#parts.emit({ kind: 'error', id, ...refusal, usage: NO_USAGE })
    }
  }

  /** For requests that lack so many places. */
  #overload(lackCount: number) {
    const retryAfterMs = this.#waiting.promisePlacesMs(lackCount)
    const message = 'Too many requests are waiting. Try again later.'
    return { code: 'overloaded', message, retryAfterMs } as const
  }

  /** The one place where an accepted request ends. */
  #end(sequence: Sequence, event: EngineEvent): void {
    const { id } = sequence.request
    const hadPlace = !sequence.group.placeless.delete(sequence)
    this.#running.release(sequence)
    sequence.matcher?.dispose()
    this.#waiting.remove(sequence)
    this.#live.delete(id)
    this.#cancelledIds.delete(id)
    if (hadPlace) this.#passPlace(sequence)
    this.#parts.emit(event)
  }

  #passPlace({ group, tenant }: Sequence): void {
    const [next] = group.placeless
    if (next === undefined) {
      this.#waiting.noteEnd(tenant)
      return
    }
    group.placeless.delete(next)
    this.#waiting.takeOver(next)
  }
}
