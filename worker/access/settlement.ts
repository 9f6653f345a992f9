import { type Address, type Digest, ZERO_DIGEST } from '../../protocol/digest.ts'
import { SPLIT_RULES, splitFee } from '../../protocol/fee-split.ts'
import type { UsageOutcome, UsageRecord } from '../ledger/usage-record.ts'
import type { AdmitRequest, Settlement } from './account-contract.ts'
import { priceUsage } from './pricing.ts'

/** What an admitted request holds until it is settled. */
export interface Reservation
  extends Omit<AdmitRequest, 'keyHash' | 'idempotency' | 'priceChanges' | 'otherModels'> {
  readonly keyId: string
  /** Whose key it is; absent: the account's own. */
  readonly memberId?: string
  /** What its limits count it for; absent: its model and adapters. */
  readonly countedModels?: readonly string[]
  readonly admittedAtMs: number
  /** When the sweep begins to ask what became of it. */
  readonly expiresAtMs: number
  /** How often in a row its backend could not be asked. */
  readonly sweepFailureCount: number
}

/** All models and adapters that a request names. */
export function namedModels(
  request: Pick<AdmitRequest, 'model' | 'adapters' | 'otherModels'>,
): readonly string[] {
  const { model, adapters = [], otherModels = [] } = request
  return [model, ...adapters, ...otherModels]
}

/** What the limits of single models count a request for, wherever it went since. */
export function countedModels(reservation: Reservation): readonly string[] {
  return reservation.countedModels ?? namedModels(reservation)
}

export interface SettlementContext {
  readonly accountId: string
  /** `commitAccount` of it and its salt. */
  readonly accountCommitment: Digest
  /** 32 fresh random bytes. */
  readonly contentSalt: Digest
  readonly payees: {
    readonly platform: Address
    readonly backend: Address
    readonly modelOwner: Address
  }
  readonly nowMs: number
}

export interface PricedSettlement {
  readonly record: UsageRecord
  /** Of the worst case that was taken from the buckets. */
  readonly unusedTokenCount: number
  /** What the usage would have cost beyond its reservation. Not billed: a budget is never exceeded. */
  readonly forgoneMicroUsd: number
}

/**
 * The complete record of a request that ended: priced by the version it was admitted with, split
 * by its rule. A backend that failed before the first token is owed nothing. Throws a RangeError
 * that names the count when a backend reports what a usage leaf cannot hold.
 */
export function priceSettlement(
  reservation: Reservation,
  settlement: Settlement,
  context: SettlementContext,
): PricedSettlement {
  const counts = billedCounts(settlement)
  const costMicroUsd = priceUsage(reservation.price, counts)
  const feeMicroUsd = Math.min(costMicroUsd, reservation.worstCaseMicroUsd)
  const rule = SPLIT_RULES[reservation.splitVersion]
  if (rule === undefined) throw new RangeError(`No split rule ${reservation.splitVersion}.`)
  const credits = splitFee({
    feeMicroUsd,
    rule,
    payees: { ...context.payees, adapterOwner: settlement.adapterOwner },
    merge: settlement.merge ?? null,
    contributors: settlement.contributors,
  })
  const usedTokenCount = counts.promptTokens + counts.completionTokens
  return {
    record: {
      requestId: reservation.requestId,
      accountId: context.accountId,
      keyId: reservation.keyId,
      endpoint: reservation.endpoint,
      model: reservation.model,
      backendId: reservation.backendId,
      outcome: settlement.outcome,
      admittedAtMs: reservation.admittedAtMs,
      completedAtMs: context.nowMs,
      ...counts,
      feeMicroUsd,
      priceVersion: reservation.price.version,
      splitVersion: rule.version,
      modelDigest: settlement.modelDigest,
      adapterDigest: settlement.adapterDigest,
      merge: settlement.merge ?? null,
      attributionDigest: settlement.attributionDigest,
      credits,
      accountCommitment: context.accountCommitment,
      contentSalt: context.contentSalt,
      promptHash: settlement.promptHash,
      outputHash: settlement.outputHash,
      sketchHash: ZERO_DIGEST,
    },
    unusedTokenCount: Math.max(0, reservation.worstCaseTokenCount - usedTokenCount),
    forgoneMicroUsd: costMicroUsd - feeMicroUsd,
  }
}

function billedCounts(settlement: Settlement) {
  const { promptTokens, cachedTokens, completionTokens } = settlement
  for (const [name, count] of Object.entries({ promptTokens, cachedTokens, completionTokens })) {
    // A leaf holds counts as uint32.
    if (!Number.isInteger(count) || count < 0 || count > 0xffff_ffff)
      throw new RangeError(`${name} of ${settlement.requestId} is ${count}.`)
  }
  if (settlement.outcome === 'upstream_failed' && completionTokens === 0)
    return { promptTokens: 0, cachedTokens: 0, completionTokens: 0 }
  return { promptTokens, cachedTokens: Math.min(cachedTokens, promptTokens), completionTokens }
}

/** The end of a request that nothing was computed for. */
export function composeEmptySettlement(requestId: string, outcome: UsageOutcome): Settlement {
  return {
    requestId,
    outcome,
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: 0,
    modelDigest: ZERO_DIGEST,
    adapterDigest: ZERO_DIGEST,
    adapterOwner: null,
    attributionDigest: ZERO_DIGEST,
    contributors: [],
    promptHash: ZERO_DIGEST,
    outputHash: ZERO_DIGEST,
  }
}
