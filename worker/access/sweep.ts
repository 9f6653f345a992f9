import { readMerge } from '../../protocol/backend.ts'
import type { Settlement } from './account-contract.ts'
import type { ReportAnswer } from './report-client.ts'
import { composeEmptySettlement, type Reservation } from './settlement.ts'

/** How often in a row a backend may be out of reach before a reservation is given back. */
const MAX_SWEEP_FAILURES = 10

export type SweepPlan =
  /** The backend still works on it: look again after another term. */
  | { readonly action: 'extend' }
  /** The backend could not be asked: ask again after another term. */
  | { readonly action: 'retry' }
  /** The backend knows what was produced. */
  | { readonly action: 'settle'; readonly settlement: Settlement }
  /** Nobody knows: settled with zero tokens. */
  | { readonly action: 'release'; readonly settlement: Settlement }

/** What to do about an expired reservation whose owner has not settled it. */
export function planSweep(reservation: Reservation, answer: ReportAnswer): SweepPlan {
  const { requestId } = reservation
  switch (answer.outcome) {
    case 'unreachable':
      return reservation.sweepFailureCount + 1 < MAX_SWEEP_FAILURES
        ? { action: 'retry' }
        : { action: 'release', settlement: composeEmptySettlement(requestId, 'swept') }
    case 'unknown':
      return { action: 'release', settlement: composeEmptySettlement(requestId, 'swept') }
    case 'report': {
      const { state, usage, tallygate } = answer.report
      if (state === 'running') return { action: 'extend' }
      // No provenance: it ended before it had a prompt. Failed without a token: owed nothing.
      if (tallygate === null || (state === 'failed' && usage.completion_tokens === 0))
        return { action: 'settle', settlement: composeEmptySettlement(requestId, 'swept') }
      return {
        action: 'settle',
        settlement: {
          requestId,
          outcome: 'swept',
          promptTokens: usage.prompt_tokens,
          cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
          completionTokens: usage.completion_tokens,
          modelDigest: tallygate.model_digest,
          adapterDigest: tallygate.adapter_digest,
          adapterOwner: tallygate.adapter_owner,
          merge: readMerge(tallygate),
          attributionDigest: tallygate.attribution_digest,
          contributors: tallygate.contributors.map(({ payee, weight_ppm }) => ({
            payee,
            weightPpm: weight_ppm,
          })),
          promptHash: tallygate.prompt_hash,
          outputHash: tallygate.output_hash,
        },
      }
    }
  }
}
