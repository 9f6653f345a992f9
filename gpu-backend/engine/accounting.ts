import type { EngineStats } from './engine-port.ts'
import { billPrompt, type Sequence } from './sequence.ts'

/** What is charged to tenants, for fairness between them. */
export interface TenantCharges {
  /** A chunk of the tenant's prompt was computed; `tokenCount` of it for the first time. */
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

  /** The sequence got its memory, for the first or a further time, and what the cache had of it. */
  noteAdmission(sequence: Sequence): void {
    this.#counts.promptTokenCount += billPrompt(sequence)
    if (sequence.cachedTokenCount !== null) return
    sequence.cachedTokenCount = sequence.computedCount
    this.#counts.prefixQueryTokenCount += sequence.promptTokenCount
    this.#counts.prefixHitTokenCount += sequence.computedCount
  }

  /** More of the sequence was computed. */
  noteComputed(sequence: Sequence): void {
    const { computedCount, promptTokenCount, tenant } = sequence
    if (computedCount > promptTokenCount) return
    const newCount = billPrompt(sequence)
    this.#counts.promptTokenCount += newCount
    this.#charges.chargePrompt(tenant, newCount)
  }

  noteSampled({ tenant }: Sequence): void {
    this.#counts.completionTokenCount++
    this.#charges.chargeToken(tenant)
  }
}
