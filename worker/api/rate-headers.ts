import type { LimitSnapshot } from '../access/account-contract.ts'

/** What the caller put up with (`tallygate.degrade`); absent: nothing. */
export const DEGRADED_HEADER = 'x-tallygate-degraded'

/** Writes the `x-ratelimit-*` headers as OpenAI spells them. */
export function setRateHeaders(headers: Map<string, string>, limits: LimitSnapshot): void {
  headers.set('x-ratelimit-limit-requests', String(limits.requestLimit))
  headers.set('x-ratelimit-remaining-requests', String(limits.requestsRemaining))
  headers.set('x-ratelimit-reset-requests', formatDuration(limits.requestResetMs))
  headers.set('x-ratelimit-limit-tokens', String(limits.tokenLimit))
  headers.set('x-ratelimit-remaining-tokens', String(limits.tokensRemaining))
  headers.set('x-ratelimit-reset-tokens', formatDuration(limits.tokenResetMs))
}

/** `200ms`, `7.66s`, `1m30s`, `1h0m0s`. */
export function formatDuration(durationMs: number): string {
  if (durationMs < 1_000) return `${Math.ceil(durationMs)}ms`
  const totalSeconds = Math.ceil(durationMs / 10) / 100
  const hours = Math.floor(totalSeconds / 3_600)
  const minutes = Math.floor((totalSeconds % 3_600) / 60)
  const seconds = Number((totalSeconds % 60).toFixed(2))
  if (hours > 0) return `${hours}h${minutes}m${seconds}s`
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`
}
