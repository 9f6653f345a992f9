import type { PromptRights } from './prompt-turns.ts'
import type { RunningView } from './scheduler.ts'

interface Running extends RunningView {
  readonly tenant: string
}

export interface ShortStepRights<T> extends Pick<PromptRights<T>, 'levelOf' | 'usedBy'> {
  /** Whether the tenant has so much of the engine that steps are long by its doing. */
  readonly floods: (tenant: string) => boolean
}

/**
 * The running sequences that the next step is for. A prompt of a tenant that does not flood is computed
 * without the rows of those that do, where it is as urgent and its tenant has used less: its first token
 * does not wait for theirs.
 */
export function listForStep<T extends Running>(
  running: readonly T[],
  { floods, levelOf, usedBy }: ShortStepRights<T>,
): readonly T[] {
  const prompts = running
    .filter((sequence) => sequence.computedCount < sequence.promptTokenCount)
    .filter(({ tenant }) => !floods(tenant))
    .map((sequence) => ({ level: levelOf(sequence), used: usedBy(sequence.tenant) }))
  if (prompts.length === 0) return running
  return running.filter((sequence) => {
    if (!floods(sequence.tenant)) return true
    const [ownLevel, ownUsed] = [levelOf(sequence), usedBy(sequence.tenant)]
    return !prompts.some(({ level, used }) => level <= ownLevel && used < ownUsed)
  })
}
