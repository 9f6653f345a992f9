import { describeError, type Log } from '../log.ts'
import { createMeters, type Meters, type Series, subtractReadings } from './meters.ts'
import { type Span, writeMetrics, writeSpans } from './otlp.ts'

export interface TelemetryOptions {
  /** Base URL of an OTLP/HTTP receiver; null: nothing is sent. */
  readonly endpoint: string | null
  /** Sent with each export. */
  readonly headers: Readonly<Record<string, string>>
  readonly log: Log
  readonly nowMs: () => number
  readonly sleep: (ms: number) => Promise<void>
}

/** What one isolate has to tell of its requests. Nothing that goes wrong here touches a request. */
export interface Telemetry {
  readonly meters: Meters
  readonly addSpan: (span: Span, waitUntil: (work: Promise<unknown>) => void) => void
}

/** What comes within this time goes out together, kept alive by the request that came first. */
const EXPORT_DELAY_MS = 1_000
/** Older spans give way: a receiver that is down must not fill the isolate. */
const MAX_KEPT_SPANS = 1_000

/** A Worker's request may be ended by the platform, and with it the export that it kept alive. */
const EXPORT_GIVEN_UP_MS = 30_000

export function createTelemetry(options: TelemetryOptions): Telemetry {
  const { endpoint, log, nowMs } = options
  const meters = createMeters()
  let spans: Span[] = []
  let sent: readonly Series[] = []
  let sentAtMs = nowMs()
  let exportingSinceMs: number | null = null

  async function post(path: string, body: object): Promise<void> {
    const response = await fetch(`${endpoint?.replace(/\/+$/, '')}${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...options.headers },
      body: JSON.stringify(body),
      redirect: 'manual',
    })
    await response.body?.cancel()
    if (!response.ok) throw new Error(`The OTLP receiver answered ${response.status}.`)
  }

  async function exportOnce(): Promise<void> {
    const taken = spans
    spans = []
    try {
      await post('/v1/traces', writeSpans(taken))
    } catch (error) {
      spans = [...taken, ...spans].slice(-MAX_KEPT_SPANS)
      throw error
    }
    const reading = meters.read()
    const untilMs = nowMs()
    const news = subtractReadings(reading, sent)
    await post('/v1/metrics', writeMetrics(news, { sinceMs: sentAtMs, untilMs }))
    sent = reading
    sentAtMs = untilMs
  }

  async function exportAll(): Promise<void> {
    try {
      do {
        await options.sleep(EXPORT_DELAY_MS)
        await exportOnce()
      } while (spans.length > 0)
    } catch (error) {
      log('telemetry_failed', describeError(error))
    } finally {
      exportingSinceMs = null
    }
  }

  return {
    meters,
    addSpan: (span, waitUntil) => {
      if (endpoint === null || !span.trace.isSampled) return
      spans.push(span)
      if (spans.length > MAX_KEPT_SPANS) spans.shift()
      const isExporting =
        exportingSinceMs !== null && nowMs() - exportingSinceMs < EXPORT_GIVEN_UP_MS
      if (isExporting) return
      exportingSinceMs = nowMs()
      waitUntil(exportAll())
    },
  }
}
