import type { RequestReport } from '../../protocol/backend.ts'
import { fetchRequestReport } from '../access/report-client.ts'
import { type RelayJob, waitAtMost } from './relay-job.ts'
import type { RelayLine } from './relay-line.ts'

/** Says, in the headers of an answer that is waited for, where the request waits. */
export const QUEUE_POSITION_HEADER = 'x-tallygate-queue-position'

const ASK_EVERY_MS = 1_000
/** Headers do not wait longer for it. */
const HEADER_PATIENCE_MS = 100

const encoder = new TextEncoder()

/** Other servers than ours tell no progress. */
function tellsProgress({ route }: RelayJob): boolean {
  return route.current().target.model.digest !== undefined
}

/** What the backend says of a request; null: nobody knows. */
async function askReport(job: RelayJob): Promise<RequestReport | null> {
  if (!tellsProgress(job)) return null
  const answer = await fetchRequestReport(job.route.current().backend, job.requestId)
  return answer.outcome === 'report' ? answer.report : null
}

/** How many requests go before this one at its backend, and itself; null: it does not wait, or nobody knows. */
async function askPosition(job: RelayJob): Promise<number | null> {
  return (await askReport(job))?.queue_position ?? null
}

/** The header that tells where the request waits; none where it does not. */
export async function composeQueueHeader(job: RelayJob): Promise<Record<string, string>> {
  const position = await waitAtMost(askPosition(job), HEADER_PATIENCE_MS)
  return position === null ? {} : { [QUEUE_POSITION_HEADER]: String(position) }
}

/**
 * While the upstream has not answered, tells the reader of a stream where the request waits, as a
 * comment a second: `: queued 3`. A request that waits is no silence of the upstream's.
 */
export async function tellQueuePosition(
  job: RelayJob,
  line: RelayLine,
  arrival: Promise<unknown>,
): Promise<void> {
  const arrived = arrival.then(() => 'arrived' as const)
  while (line.stopReason() === null) {
    const position = await Promise.race([askPosition(job), arrived])
    if (position === 'arrived') return
    if (position !== null) {
      line.noteUpstream()
      await line.write(encoder.encode(`: queued ${position}\n\n`)).catch(() => {}) // the line knows that the client left
    }
    if ((await waitAtMost(arrived, ASK_EVERY_MS)) !== null) return
  }
}

/**
 * While an answer in one piece is waited for: a request that waits for its turn, or that has more tokens
 * than before, is no silence of the upstream's; nor is a server that cannot tell, within its time.
 */
export async function watchProgress(
  job: RelayJob,
  line: RelayLine,
  answer: Promise<unknown>,
): Promise<void> {
  const askEveryMs = Math.min(ASK_EVERY_MS, job.maxUpstreamSilenceMs / 4)
  const isDueAt = Date.now() + job.maxUpstreamAnswerMs
  let tokenCount = 0
  do {
    if (!tellsProgress(job) && Date.now() < isDueAt) line.noteUpstream()
    const report = await askReport(job)
    if (report === null) continue
    const { queue_position: position, usage } = report
    if (position != null || usage.completion_tokens > tokenCount) line.noteUpstream()
    tokenCount = usage.completion_tokens
  } while (line.stopReason() === null && (await waitAtMost(answer, askEveryMs)) === null)
}
