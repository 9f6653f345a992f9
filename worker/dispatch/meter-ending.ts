import {
  type Provenance,
  type RequestReport,
  readMerge,
  type Usage,
} from '../../protocol/backend.ts'
import { type Digest, ZERO_DIGEST } from '../../protocol/digest.ts'
import type { Settlement } from '../access/account-contract.ts'
import type { ApiError } from '../errors.ts'
import type { UsageOutcome } from '../ledger/usage-record.ts'
import type { Target } from './pick-backend.ts'

/** How a relay ended. */
export type RelayEnding =
  | { readonly how: 'whole' }
  | { readonly how: 'client_left' }
  | { readonly how: 'failed'; readonly error: ApiError }

/** What the relay itself saw of the answer. */
export interface Evidence {
  readonly usage: Usage | null
  readonly provenance: Provenance | null
  /** Tokens that went towards the client, counted or estimated by the gateway. */
  readonly tokenCount: number
  /** What the prompt has in tokens by rule of thumb; used where nobody counted. */
  readonly estimatedPromptTokens: number
  /** Of a stream that has begun. */
  readonly firstTokenAtMs?: number | null
}

/** Token counts to bill, and who counted. */
export interface Metering {
  readonly usage: Usage
  readonly provenance: Provenance | null
  readonly meteredBy: 'usage' | 'report' | 'frames' | 'nothing'
}

/** A byte-level tokenizer makes about one token of four bytes of English. */
const BYTES_A_TOKEN = 4

/** A rule of thumb for servers that do not count. */
export function estimateTokenCount(sizeBytes: number): number {
  return Math.ceil(sizeBytes / BYTES_A_TOKEN)
}

/** Whether the backend's own report is needed to bill this ending. */
export function needsReport(ending: RelayEnding, evidence: Evidence): boolean {
  switch (ending.how) {
    case 'whole':
    case 'client_left':
      return evidence.usage === null
    case 'failed':
      return evidence.tokenCount > 0
  }
}

/**
 * What is billed. A whole answer: its usage. A client that left: what the backend says that it
 * produced; nothing if it failed before its first token. A failure: the tokens that went out,
 * nothing if none did. Where nobody counted, the
 * frames are the tokens, and the prompt of what was served is estimated.
 */
export function meterEnding(
  ending: RelayEnding,
  evidence: Evidence,
  report: RequestReport | null,
): Metering {
  const provenance = evidence.provenance ?? report?.tallygate ?? null
  if (ending.how === 'failed') {
    if (evidence.tokenCount === 0) return NOTHING
    const prompt = evidence.usage ?? report?.usage ?? composeUsage(0, 0)
    const usage = { ...prompt, ...sum(prompt.prompt_tokens, evidence.tokenCount) }
    return { usage, provenance, meteredBy: 'frames' }
  }
  if (evidence.usage !== null) return { usage: evidence.usage, provenance, meteredBy: 'usage' }
  if (report?.state === 'failed' && report.usage.completion_tokens === 0) return NOTHING
  if (report !== null) return { usage: report.usage, provenance, meteredBy: 'report' }
  if (evidence.tokenCount === 0 && ending.how === 'client_left') return NOTHING
  return {
    usage: composeUsage(evidence.estimatedPromptTokens, evidence.tokenCount),
    provenance,
    meteredBy: 'frames',
  }
}

const OUTCOMES = {
  whole: 'completed',
  client_left: 'client_aborted',
  failed: 'upstream_failed',
} as const satisfies Record<RelayEnding['how'], UsageOutcome>

/** The message that settles a request. */
export function composeSettlement(
  requestId: string,
  ending: RelayEnding,
  metered: { readonly metering: Metering; readonly target: Target },
): Settlement {
  const { usage, provenance } = metered.metering
  return {
    requestId,
    outcome: OUTCOMES[ending.how],
    promptTokens: usage.prompt_tokens,
    cachedTokens: usage.prompt_tokens_details?.cached_tokens ?? 0,
    completionTokens: usage.completion_tokens,
    modelDigest: provenance?.model_digest ?? orZero(metered.target.modelDigest),
    adapterDigest: provenance?.adapter_digest ?? orZero(metered.target.adapterDigest),
    adapterOwner: provenance?.adapter_owner ?? null,
    merge: provenance ? readMerge(provenance) : metered.target.merge,
    attributionDigest: provenance?.attribution_digest ?? ZERO_DIGEST,
    contributors: (provenance?.contributors ?? []).map((credit) => ({
      payee: credit.payee,
      weightPpm: credit.weight_ppm,
    })),
    promptHash: provenance?.prompt_hash ?? ZERO_DIGEST,
    outputHash: provenance?.output_hash ?? ZERO_DIGEST,
  }
}

function orZero(digest: Digest | null): Digest {
  return digest ?? ZERO_DIGEST
}

function sum(promptTokens: number, completionTokens: number) {
  return { completion_tokens: completionTokens, total_tokens: promptTokens + completionTokens }
}

function composeUsage(promptTokens: number, completionTokens: number): Usage {
  return { prompt_tokens: promptTokens, ...sum(promptTokens, completionTokens) }
}

const NOTHING: Metering = {
  usage: composeUsage(0, 0),
  provenance: null,
  meteredBy: 'nothing',
}
