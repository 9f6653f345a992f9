import { CURRENT_SPLIT_VERSION } from '../../protocol/fee-split.ts'
import type { AdmitRequest, AdmitResult } from '../access/account-contract.ts'
import type { Caller, FloodShield } from '../access/flood-shield.ts'
import type { IdempotencyClaim } from '../access/idempotency.ts'
import { priceWorstCase } from '../access/pricing.ts'
import type { CacheClaim } from '../access/response-cache.ts'
import type { Meters } from '../telemetry/meters.ts'
import type { AccountClient } from './account-client.ts'
import type { Candidate } from './find-targets.ts'
import { boundTokens, type GenerationRequest } from './generation-request.ts'

interface Admission {
  readonly requestId: string
  readonly request: GenerationRequest
  /** The first is to serve; the reservation covers whichever does. */
  readonly candidates: readonly [Candidate, ...Candidate[]]
  readonly caller: Caller
  readonly idempotency: IdempotencyClaim | null
  readonly cache: CacheClaim | null
}

interface AdmitPorts {
  readonly account: AccountClient
  readonly shield: FloodShield
  readonly meters: Meters
}

/**
 * Asks the account for leave, and reserves the most that the request can use and cost. What it has
 * refused before and is bound to refuse again it is not asked.
 */
export async function admitGeneration(
  { account, shield, meters }: AdmitPorts,
  admission: Admission,
): Promise<AdmitResult> {
  const { caller } = admission
  const { accountId } = caller
  const request = composeAdmitRequest(admission)
  const askedAtMs = Date.now()
  const refusal = shield.recall(request, askedAtMs)
  if (refusal !== null) {
    meters.record('tallygate.shielded', 1, { outcome: refusal.outcome })
    return refusal
  }
  const result = await account.admit(request)
  meters.record('tallygate.account.calls', 1, { operation: 'admit', outcome: result.outcome })
  shield.note(request, result, { accountId, atMs: askedAtMs })
  if (result.outcome === 'admitted') account.onClose(shield.open(caller))
  return result
}

function composeAdmitRequest({
  requestId,
  request,
  candidates,
  caller,
  idempotency,
  cache,
}: Admission): AdmitRequest {
  const [{ tariff, backend, concession }] = candidates
  const { model: asked, degradation } = request
  const model = concession?.model ?? asked
  const otherModels = [asked, ...(degradation?.models ?? [])].filter((each) => each !== model)
  const worstCases = candidates.map((candidate) => {
    const maxCompletionTokens = candidate.concession?.maxTokens ?? request.maxCompletionTokens
    const bound = boundTokens(
      { ...request, maxCompletionTokens },
      candidate.target.model.max_model_len,
    )
    return {
      tokenCount: bound.promptTokens + bound.completionTokens,
      microUsd: priceWorstCase(candidate.tariff, { ...bound, cachedTokens: 0 }),
    }
  })
  return {
    requestId,
    keyHash: caller.keyHash,
    endpoint: request.endpoint,
    model,
    ...(otherModels.length > 0 && { otherModels }),
    ...tariff,
    ...(request.merge && { adapters: request.merge.members.map(({ id }) => id) }),
    ...(request.tier && { tier: request.tier }),
    splitVersion: CURRENT_SPLIT_VERSION,
    worstCaseMicroUsd: Math.max(...worstCases.map(({ microUsd }) => microUsd)),
    worstCaseTokenCount: Math.max(...worstCases.map(({ tokenCount }) => tokenCount)),
    backendId: backend.id,
    ...(idempotency && { idempotency }),
    ...(cache && { cache }),
  }
}
