import { type RequestReport, requestReportSchema } from '../../protocol/backend.ts'
import type { Config } from '../env.ts'

const TIMEOUT_MS = 5_000

export type ReportAnswer =
  | { readonly outcome: 'report'; readonly report: RequestReport }
  /** The backend never saw the request, forgot it, or gives no reports at all. */
  | { readonly outcome: 'unknown' }
  /** Not answered now; asking again may help. */
  | { readonly outcome: 'unreachable' }

/** Statuses of a server that has no such request, or no such route. */
const UNKNOWN_STATUSES = [404, 405, 501]

/** Asks a backend what became of a request. Never throws. */
export async function fetchRequestReport(
  backend: Config['BACKENDS'][number],
  requestId: string,
): Promise<ReportAnswer> {
  const baseUrl = backend.url.replace(/\/$/, '')
  // A pending AbortSignal.timeout() would keep an idle object in memory until it fires.
  const deadline = new AbortController()
  const timer = setTimeout(() => deadline.abort(), TIMEOUT_MS)
  try {
    const response = await fetch(`${baseUrl}/tallygate/requests/${requestId}`, {
      headers: backend.token === undefined ? {} : { authorization: `Bearer ${backend.token}` },
      redirect: 'manual',
      signal: deadline.signal,
    })
    if (!response.ok) {
      await response.body?.cancel()
      return { outcome: UNKNOWN_STATUSES.includes(response.status) ? 'unknown' : 'unreachable' }
    }
    const parsed = requestReportSchema.safeParse(await response.json())
    return parsed.success && parsed.data.request_id === requestId
      ? { outcome: 'report', report: parsed.data }
      : { outcome: 'unreachable' }
  } catch {
    return { outcome: 'unreachable' }
  } finally {
    clearTimeout(timer)
  }
}
