import { CURRENT_SPLIT_VERSION } from '../../protocol/fee-split.ts'
import type { AdmitResult } from '../access/account-contract.ts'
import type { IdempotencyClaim } from '../access/idempotency.ts'
import { type Price, priceUsage } from '../access/pricing.ts'
import type { AccountClient } from './account-client.ts'
import { boundTokens, type GenerationRequest } from './generation-request.ts'
import type { Target } from './pick-backend.ts'

interface Admission {
  readonly requestId: string
  readonly request: GenerationRequest
  readonly target: Target
  readonly keyHash: string
  readonly price: Price
  readonly idempotency: IdempotencyClaim | null
}

/** Asks the account for leave, and reserves the most that the request can use and cost. */
export function admitGeneration(
  account: AccountClient,
  { requestId, request, target, keyHash, price, idempotency }: Admission,
): Promise<AdmitResult> {
  const { promptTokens, completionTokens } = boundTokens(request, target.model.max_model_len)
  return account.admit({
    requestId,
    keyHash,
    endpoint: request.endpoint,
    model: request.model,
    price,
    splitVersion: CURRENT_SPLIT_VERSION,
    worstCaseMicroUsd: priceUsage(price, { promptTokens, cachedTokens: 0, completionTokens }),
    worstCaseTokenCount: promptTokens + completionTokens,
    backendId: target.backendId,
    ...(idempotency && { idempotency }),
  })
}
