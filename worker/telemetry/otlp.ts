import { INSTRUMENTS, type InstrumentName, type Series } from './meters.ts'
import type { TraceContext } from './trace-context.ts'

type AttributeValue = string | number | boolean

/** One request, as a span of its trace. */
export interface Span {
  readonly trace: TraceContext
  /** As OpenTelemetry names it, e. g. `chat smol:ada`. */
  readonly name: string
  readonly startedAtMs: number
  readonly endedAtMs: number
  readonly attributes: Readonly<Record<string, AttributeValue | undefined>>
  /** An error code of ours; null where the request went well. */
  readonly errorCode: string | null
}

const RESOURCE = { attributes: writeAttributes({ 'service.name': 'tallygate' }) }
const SCOPE = { name: 'tallygate' }
const KIND_SERVER = 2
const STATUS_ERROR = 2
const DELTA = 1

/** An ExportTraceServiceRequest of OTLP/HTTP, in its JSON form. */
export function writeSpans(spans: readonly Span[]): object {
  return {
    resourceSpans: [
      { resource: RESOURCE, scopeSpans: [{ scope: SCOPE, spans: spans.map(writeSpan) }] },
    ],
  }
}

/** An ExportMetricsServiceRequest: what the readings count for the time from `sinceMs` to `untilMs`. */
export function writeMetrics(
  reading: readonly Series[],
  { sinceMs, untilMs }: { readonly sinceMs: number; readonly untilMs: number },
): object {
  const times = { startTimeUnixNano: toNanos(sinceMs), timeUnixNano: toNanos(untilMs) }
  const metrics = [...Map.groupBy(reading, ({ name }) => name)].map(([name, series]) => ({
    name,
    unit: INSTRUMENTS[name].unit,
    description: INSTRUMENTS[name].description,
    ...writePoints(name, series, times),
  }))
  return { resourceMetrics: [{ resource: RESOURCE, scopeMetrics: [{ scope: SCOPE, metrics }] }] }
}

function writeSpan(span: Span): object {
  const { trace, name, errorCode } = span
  return {
    traceId: trace.traceId,
    spanId: trace.spanId,
    ...(trace.parentSpanId !== null && { parentSpanId: trace.parentSpanId }),
    name,
    kind: KIND_SERVER,
    startTimeUnixNano: toNanos(span.startedAtMs),
    endTimeUnixNano: toNanos(span.endedAtMs),
    attributes: writeAttributes({
      ...span.attributes,
      ...(errorCode !== null && { 'error.type': errorCode }),
    }),
    ...(errorCode !== null && { status: { code: STATUS_ERROR } }),
  }
}

function writePoints(
  name: InstrumentName,
  allSeries: readonly Series[],
  times: { readonly startTimeUnixNano: string; readonly timeUnixNano: string },
): object {
  const instrument = INSTRUMENTS[name]
  if (!('bounds' in instrument)) {
    const dataPoints = allSeries.map(({ attributes, sum }) => ({
      attributes: writeAttributes(attributes),
      ...times,
      asDouble: sum,
    }))
    return { sum: { aggregationTemporality: DELTA, isMonotonic: true, dataPoints } }
  }
  const dataPoints = allSeries.map(({ attributes, count, sum, bucketCounts }) => ({
    attributes: writeAttributes(attributes),
    ...times,
    count: String(count),
    sum,
    bucketCounts: bucketCounts.map(String),
    explicitBounds: instrument.bounds,
  }))
  return { histogram: { aggregationTemporality: DELTA, dataPoints } }
}

function writeAttributes(attributes: Readonly<Record<string, AttributeValue | undefined>>) {
  return Object.entries(attributes).flatMap(([key, value]) =>
    value === undefined ? [] : [{ key, value: writeValue(value) }],
  )
}

function writeValue(value: AttributeValue): object {
  if (typeof value === 'string') return { stringValue: value }
  if (typeof value === 'boolean') return { boolValue: value }
  return Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value }
}

/** 64-bit integers are strings in protobuf's JSON. */
function toNanos(ms: number): string {
  return `${Math.round(ms)}000000`
}
