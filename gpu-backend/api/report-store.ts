import type { Provenance, RequestReport, Usage } from '../../protocol/backend.ts'

/** How long a report outlives its request. */
const REPORT_LIFETIME_MS = 600_000

interface ReportStoreOptions {
  readonly now: () => number
  /** Ended reports kept at most; the oldest goes first. */
  readonly maxEndedCount: number
}

/** What requests have used, by request id: running ones, and ended ones for ten minutes. */
export interface ReportStore {
  /** Null when a request of this id is running. A report of an ended one is replaced. */
  readonly start: (requestId: string, promptTokenCount: number) => RunningReport | null
  readonly find: (requestId: string) => RequestReport | null
}

export interface RunningReport {
  readonly countToken: () => void
  readonly end: (
    state: 'completed' | 'cancelled' | 'failed',
    usage: Usage,
    provenance: Provenance,
  ) => void
}

export function createReportStore({ now, maxEndedCount }: ReportStoreOptions): ReportStore {
  const running = new Map<string, { promptTokens: number; completionTokens: number }>()
  /** In the order of their ends. */
  const ended = new Map<string, { report: RequestReport; endedAtMs: number }>()

  const forgetOld = () => {
    for (const [requestId, { endedAtMs }] of ended) {
      if (ended.size <= maxEndedCount && now() - endedAtMs <= REPORT_LIFETIME_MS) return
      ended.delete(requestId)
    }
  }

  return {
    start: (requestId, promptTokenCount) => {
      if (running.has(requestId)) return null
      const usage = { promptTokens: promptTokenCount, completionTokens: 0 }
      running.set(requestId, usage)
      ended.delete(requestId)
      return {
        countToken: () => {
          usage.completionTokens += 1
        },
        end: (state, finalUsage, tallygate) => {
          running.delete(requestId)
          const report = { request_id: requestId, state, usage: finalUsage, tallygate }
          ended.set(requestId, { report, endedAtMs: now() })
          forgetOld()
        },
      }
    },
    find: (requestId) => {
      forgetOld()
      const usage = running.get(requestId)
      if (!usage) return ended.get(requestId)?.report ?? null
      return {
        request_id: requestId,
        state: 'running',
        usage: {
          prompt_tokens: usage.promptTokens,
          completion_tokens: usage.completionTokens,
          total_tokens: usage.promptTokens + usage.completionTokens,
        },
        tallygate: null,
      }
    },
  }
}
