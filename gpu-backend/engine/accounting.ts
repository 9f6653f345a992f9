import type { EngineStats } from './engine-port.ts'
import { billPrompt, type Sequence } from './sequence.ts'

/** What is charged to tenants, for fairness between them. */
export interface TenantCharges {
  /** Tokens of the tenant's prompt that have to be computed. */
  readonly chargePrompt: (tenant: string, tokenCount: number) => void
  /** A token was sampled for the tenant. */
  readonly chargeToken: (tenant: string) => void
}

type Counts = Pick<
  EngineStats,
  | 'stepCount'
  | 'promptTokenCount'
  | 'completionTokenCount'
  | 'prefixQueryTokenCount'
  | 'prefixHitTokenCount'
  | 'preemptionCount'
>

/** Counts what the engine does, bills requests for it and charges their tenants: each token once. */
export class Accounting {
  readonly #charges: TenantCharges
  readonly #counts = {
    stepCount: 0,
    promptTokenCount: 0,
    completionTokenCount: 0,
    prefixQueryTokenCount: 0,
    prefixHitTokenCount: 0,
    preemptionCount: 0,
  }

  constructor(charges: TenantCharges) {
    this.#charges = charges
  }

  get counts(): Counts {
    return this.#counts
  }

  noteStep(): void {
    this.#counts.stepCount++
  }

  notePreemption(): void {
    this.#counts.preemptionCount++
  }

  /** The sequence got its memory, for the first or a further time. */
  noteAdmission(sequence: Sequence): void {
    this.noteComputed(sequence)
    if (sequence.cachedTokenCount !== null) return
    const { promptTokenCount, computedCount, tenant } = sequence
    sequence.cachedTokenCount = computedCount
    this.#counts.prefixQueryTokenCount += promptTokenCount
    this.#counts.prefixHitTokenCount += computedCount
    this.#charges.chargePrompt(tenant, promptTokenCount - computedCount)
  }

  /** More of the sequence may be in the KV cache than before. */
  noteComputed(sequence: Sequence): void {
    this.#counts.promptTokenCount += billPrompt(sequence)
  }

  noteSampled({ tenant }: Sequence): void {
    this.#counts.completionTokenCount++
    this.#charges.chargeToken(tenant)
  }
}
