/** Where a request stands in a trace: W3C Trace Context, level 1. */
export interface TraceContext {
  /** 32 hex digits. */
  readonly traceId: string
  /** 16 hex digits: the span that the gateway makes of the request. */
  readonly spanId: string
  /** The caller's span; null for a trace that begins here. */
  readonly parentSpanId: string | null
  readonly isSampled: boolean
}

const TRACEPARENT = /^(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/
const NO_TRACE = '0'.repeat(32)
const NO_SPAN = '0'.repeat(16)

/** Goes on with the caller's trace, or begins one where `traceparent` is missing or malformed. */
export function openTraceContext(
  traceparent: string | undefined,
  createHex: (byteCount: number) => string,
): TraceContext {
  const parent = readTraceparent(traceparent)
  return {
    traceId: parent?.traceId ?? createHex(16),
    spanId: createHex(8),
    parentSpanId: parent?.spanId ?? null,
    isSampled: parent?.isSampled ?? true,
  }
}

/** The header for whoever is called next: our span is its parent. */
export function writeTraceparent({ traceId, spanId, isSampled }: TraceContext): string {
  return `00-${traceId}-${spanId}-${isSampled ? '01' : '00'}`
}

function readTraceparent(header: string | undefined) {
  const [, version, traceId, spanId, flags = '', more] = TRACEPARENT.exec(header ?? '') ?? []
  if (traceId === undefined || spanId === undefined) return null
  if (traceId === NO_TRACE || spanId === NO_SPAN) return null
  if (version === '00' && more !== undefined) return null
  return { traceId, spanId, isSampled: (Number.parseInt(flags, 16) & 1) === 1 }
}
