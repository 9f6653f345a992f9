import { CURRENT_SPLIT_VERSION } from '../../protocol/fee-split.ts'
import type { AdmitResult } from '../access/account-contract.ts'
import type { IdempotencyClaim } from '../access/idempotency.ts'
import { priceUsage } from '../access/pricing.ts'
import type { AccountClient } from './account-client.ts'
import type { Candidate } from './find-targets.ts'
import { boundTokens, type GenerationRequest } from './generation-request.ts'

interface Admission {
  readonly requestId: string
  readonly request: GenerationRequest
  /** The first is to serve; the reservation covers whichever does. */
  readonly candidates: readonly [Candidate, ...Candidate[]]
  readonly keyHash: string
  readonly idempotency: IdempotencyClaim | null
}

/** Asks the account for leave, and reserves the most that the request can use and cost. */
export function admitGeneration(
  account: AccountClient,
  { requestId, request, candidates, keyHash, idempotency }: Admission,
): Promise<AdmitResult> {
  const [{ price, backend }] = candidates
  const worstCases = candidates.map((candidate) => {
    const bound = boundTokens(request, candidate.target.model.max_model_len)
    return {
      tokenCount: bound.promptTokens + bound.completionTokens,
      microUsd: priceUsage(candidate.price, { ...bound, cachedTokens: 0 }),
    }
  })
  return account.admit({
    requestId,
    keyHash,
    endpoint: request.endpoint,
    model: request.model,
    ...(request.merge && { adapters: request.merge.members.map(({ id }) => id) }),
    price,
    splitVersion: CURRENT_SPLIT_VERSION,
    worstCaseMicroUsd: Math.max(...worstCases.map(({ microUsd }) => microUsd)),
    worstCaseTokenCount: Math.max(...worstCases.map(({ tokenCount }) => tokenCount)),
    backendId: backend.id,
    ...(idempotency && { idempotency }),
  })
}
