import assert from 'node:assert/strict'
import type { TokenBytes } from '../decode/detokenizer.ts'
import { createSampler, type Sampler } from '../decode/sampler.ts'
import type { OpenGrammar } from './answer-grammar.ts'
import type { EngineErrorCode, EngineEvent, EngineRequest, EngineStats } from './engine-port.ts'
import type { ModelRunner } from './model-runner.ts'
import { findMaxSequenceTokens, findRefusal } from './refusal.ts'
import { assertLimits, type EngineLimits, type PlannedRow, planStep } from './scheduler.ts'
import {
  addStates,
  buildStepRow,
  countUsage,
  createSequence,
  meanState,
  NO_USAGE,
  openMask,
  type Sequence,
  takeLogprobs,
  takePromptLogits,
  takeToken,
} from './sequence.ts'
import { createWaitingQueue, type WaitingQueue, type WaitingRequest } from './waiting-queue.ts'

/** Of a request for its prompt's log probabilities alone. */
const NO_ANSWER = {
  tokenId: null,
  token: null,
  finish: { reason: 'length', text: '' },
} as const

const FAULT_MESSAGE = 'The model failed on this request.'

export interface EngineParts {
  readonly runner: ModelRunner
  readonly tokenBytes: TokenBytes
  /** Digests of the adapters that a request may name. Changed by the owner, between steps only. */
  readonly adapters: ReadonlySet<string>
  readonly limits: EngineLimits
  readonly nowMs: () => number
  readonly emit: (event: EngineEvent) => void
  /** The cause of an `internal_error`, for the log. */
  readonly onFault: (error: unknown, requestIds: readonly string[]) => void
  /** Absent: a request with a grammar fails. */
  readonly openGrammar?: OpenGrammar
}

/** Continuous batching over one model. Every submitted request ends with exactly one of `finish`, `cancelled` and `error`. */
export class Engine {
  readonly #parts: EngineParts
  readonly #sampler: Sampler
  readonly #kvTotalTokens: number
  readonly #maxSequenceTokens: number
  readonly #maxLiveCount: number
  readonly #waiting: WaitingQueue
  /** By request id, in order of admission. */
  readonly #running = new Map<string, Sequence>()
  readonly #liveIds = new Set<string>()
  readonly #cancelledIds = new Set<string>()
  #stepCount = 0
  #promptTokenCount = 0
  #completionTokenCount = 0

  constructor(parts: EngineParts) {
    assertLimits(parts.limits)
    this.#parts = parts
    this.#sampler = createSampler(parts.runner.vocabSize)
    this.#kvTotalTokens = parts.runner.freeKvTokens
    this.#maxSequenceTokens = findMaxSequenceTokens(parts.runner)
    this.#maxLiveCount = parts.limits.maxRunningCount + parts.limits.maxWaitingCount
    this.#waiting = createWaitingQueue(this.#maxLiveCount, parts.nowMs)
  }

  get hasWork(): boolean {
    return this.#liveIds.size > 0
  }

  /** Queues the request, or refuses it with an `error` event at once. Its id must not be live. */
  submit(request: EngineRequest): void {
    const { id } = request
    assert(!this.#liveIds.has(id), `request ${id} is live already`)
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
    if (this.#liveIds.size >= this.#maxLiveCount) {
      const message = 'Too many requests are waiting. Try again later.'
      const retryAfterMs = this.#waiting.promisePlaceMs()
      emit({ kind: 'error', id, code: 'overloaded', message, retryAfterMs, usage: NO_USAGE })
      return
    }
    this.#waiting.enter(request)
    this.#liveIds.add(id)
  }

  /** Drops the request before the next step begins; ids that are not live are ignored. */
  cancel(id: string): void {
    if (this.#liveIds.has(id)) this.#cancelledIds.add(id)
  }

  /** One turn: admit → schedule → run → sample → emit → free. Call it again only when it has resolved; it rejects only where the KV cache breaks its contract. */
  async step(): Promise<void> {
    this.#dropCancelled()
    this.#dropOrphans()
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
      kvUsedTokens: this.#kvTotalTokens - this.#parts.runner.freeKvTokens,
      kvTotalTokens: this.#kvTotalTokens,
      loadedAdapterCount: this.#parts.adapters.size,
    }
  }

  #dropCancelled(): void {
    for (const id of this.#cancelledIds) {
      const sequence = this.#running.get(id)
      if (sequence !== undefined) {
        this.#end(sequence, { kind: 'cancelled', id, usage: countUsage(sequence) })
        continue
      }
      const entry = this.#waiting.remove(id)
      if (entry !== null) this.#close(entry.request, { kind: 'cancelled', id, usage: NO_USAGE })
    }
  }

  /** A sequence whose adapter is gone would fail the whole step. */
  #dropOrphans(): void {
    for (const sequence of this.#running.values()) {
      if (!this.#hasAdapter(sequence.request)) {
        this.#fail(sequence, 'adapter_missing', 'The adapter was unloaded.')
      }
    }
  }

  /** Takes KV memory for as many as fit, strictly in turn: a large request is not overtaken by small ones. */
  #admit(): void {
    const { runner, limits, tokenBytes } = this.#parts
    while (this.#running.size < limits.maxRunningCount) {
      const entry = this.#waiting.next()
      if (entry === null) return
      const { request } = entry
      if (!this.#hasAdapter(request)) {
        this.#refuseWaiting(entry, 'adapter_missing', 'The adapter was unloaded.')
        continue
      }
      const kv = runner.createKvRow(request.promptTokens.length + request.maxTokens)
      if (kv !== null) {
        this.#waiting.admit(entry)
        this.#running.set(request.id, createSequence(request, kv, tokenBytes))
      } else if (this.#running.size === 0) {
        const message = 'The KV cache is too small for this prompt and answer.'
        this.#refuseWaiting(entry, 'context_length_exceeded', message)
      } else {
        return
      }
    }
  }

  #hasAdapter({ adapter }: EngineRequest): boolean {
    return adapter === null || this.#parts.adapters.has(adapter)
  }

  /** The logits of the rows; null when the run failed, and its sequences with it. */
  async #run(rows: readonly PlannedRow<Sequence>[]) {
    this.#stepCount++
    try {
      const logits = await this.#parts.runner.run(rows.map(buildStepRow))
      for (const { sequence, tokenCount } of rows) {
        if (sequence.lastToken === null) this.#promptTokenCount += tokenCount
      }
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

  /** Takes the states of a prompt's chunk; its last ends the sequence. */
  #embed({ sequence, endsPrompt }: PlannedRow<Sequence>, states: Float32Array | null): void {
    const { id } = sequence.request
    if (states === null || !states.every(Number.isFinite)) {
      this.#parts.onFault(new Error('the runner gave no finite states'), [id])
      this.#fail(sequence, 'internal_error', FAULT_MESSAGE)
      return
    }
    addStates(sequence, states)
    if (!endsPrompt) return
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

  async #openMask({ sequence, endsPrompt }: PlannedRow<Sequence>): Promise<Int32Array | null> {
    return endsPrompt ? openMask(sequence, this.#parts.openGrammar) : null
  }

  /** A fault in one sequence (NaN logits, a failed assertion) ends that sequence alone. */
  #takeRow(
    { sequence, tokenCount, endsPrompt }: PlannedRow<Sequence>,
    logits: Float32Array | null,
    mask: PromiseSettledResult<Int32Array | null> | undefined,
  ): void {
    try {
      const last = logits && takePromptLogits(sequence, tokenCount, logits)
      if (!endsPrompt) return
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

  #end(sequence: Sequence, event: EngineEvent): void {
    this.#running.delete(event.id)
    this.#parts.runner.freeKvRow(sequence.kv)
    sequence.matcher?.dispose()
    this.#close(sequence.request, event)
  }

  #refuseWaiting({ request }: WaitingRequest, code: EngineErrorCode, message: string): void {
    const { id } = request
    this.#waiting.remove(id)
    const usage = NO_USAGE
    this.#close(request, { kind: 'error', id, code, message, retryAfterMs: null, usage })
  }

  /** The one place where an accepted request ends. */
  #close({ id, tenant }: EngineRequest, event: EngineEvent): void {
    this.#liveIds.delete(id)
    this.#cancelledIds.delete(id)
    this.#waiting.noteEnd(tenant)
    this.#parts.emit(event)
  }
}
