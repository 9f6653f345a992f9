import assert from 'node:assert/strict'
import { createSampler, type Sampler } from '../decode/sampler.ts'
import { Accounting } from './accounting.ts'
import type { EngineParts } from './engine-parts.ts'
import type { EngineErrorCode, EngineEvent, EngineRequest, EngineStats } from './engine-port.ts'
import { takeTurns } from './prompt-turns.ts'
import { findMaxSequenceTokens, findRefusal } from './refusal.ts'
import { type RowEvent, takeRow } from './row-events.ts'
import { RunningSet } from './running-set.ts'
import { assertLimits, type PlannedRow, planStep } from './scheduler.ts'
import {
  buildStepRow,
  countUsage,
  createSequence,
  NO_USAGE,
  openMask,
  type Sequence,
} from './sequence.ts'
import { type Urgent, urgencyLevel } from './urgency.ts'
import { createWaitingQueue, type WaitingQueue } from './waiting-queue.ts'

const FAULT_MESSAGE = 'The model failed on this request.'

/** A tenant that asked for little may be ahead of the others by the tokens of so many steps. */
const BURST_STEPS = 8

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
      burstTokens: BURST_STEPS * limits.maxStepTokens,
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

  /** One turn: admit → schedule → run → sample → emit → free. Call it again only when it has resolved; it rejects only where the KV cache breaks its contract. */
  async step(): Promise<void> {
    this.#dropCancelled()
    this.#dropOrphans()
    this.#dropExpired()
    this.#running.grow()
    this.#running.admit()
    const rows = this.#planStep()
    if (rows.length === 0) return
    // Masks are found while the model runs.
    const opening = Promise.allSettled(rows.map((row) => this.#openMask(row)))
    const outputs = await this.#run(rows)
    const masks = await opening
    if (outputs === null) return
    for (const [index, row] of rows.entries()) {
      for (const event of this.#takeRow(row, outputs[index] ?? null, masks[index])) {
        if (event.kind === 'finish') this.#end(row.sequence, event)
        else this.#parts.emit(event)
      }
    }
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

  get stats(): EngineStats {
    const { usedTokens, cachedTokens, totalTokens } = this.#running.memory
    return {
      ...this.#accounting.counts,
      runningCount: this.#running.count,
      waitingCount: this.#waiting.size(),
      kvUsedTokens: usedTokens,
      kvCachedTokens: cachedTokens,
      kvTotalTokens: totalTokens,
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

  #hasAdapter({ adapter }: EngineRequest): boolean {
    return adapter === null || this.#parts.adapters.has(adapter)
  }

  #planStep(): readonly Row[] {
    const { limits } = this.#parts
    const rights = {
      agedLevelOf: (sequence: Sequence) => this.#levelOf(sequence),
      levelOf: this.#running.standing().levelOf,
      usedBy: this.#waiting.usedBy,
      passedOverCount: this.#waiting.chunksSince,
      maxPassedOverCount: limits.maxRunningCount,
    }
    return planStep(this.#running.sequences(), limits, (prompts) => takeTurns(prompts, rights))
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

  async #openMask({ sequence, wantsToken }: Row): Promise<Int32Array | null> {
    return wantsToken ? openMask(sequence, this.#parts.openGrammar) : null
  }

  /** A fault in one sequence (NaN logits, a failed assertion) ends that sequence alone. */
  #takeRow(
    row: Row,
    output: Float32Array | null,
    mask: PromiseSettledResult<Int32Array | null> | undefined,
  ): readonly RowEvent[] {
    const { sequence } = row
    try {
      return takeRow(row, output, (logits) => {
        if (mask?.status === 'rejected') throw mask.reason
        const tokenId = this.#sampler.sample(logits, sequence.history, mask?.value)
        this.#accounting.noteSampled(sequence)
        return tokenId
      })
    } catch (error) {
      this.#parts.onFault(error, [sequence.request.id])
      this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
      return []
    }
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
    this.#running.release(sequence)
    sequence.matcher?.dispose()
    this.#waiting.remove(sequence)
    this.#live.delete(id)
    this.#cancelledIds.delete(id)
    this.#waiting.noteEnd(tenant)
    this.#parts.emit(event)
  }
}
