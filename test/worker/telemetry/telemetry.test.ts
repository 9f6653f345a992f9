import { describe, expect, it } from 'vitest'
import { createMeters, INSTRUMENTS, subtractReadings } from '../../../worker/telemetry/meters.ts'
import { writeMetrics, writeSpans } from '../../../worker/telemetry/otlp.ts'
import { writePrometheus } from '../../../worker/telemetry/prometheus.ts'
import { openTraceContext, writeTraceparent } from '../../../worker/telemetry/trace-context.ts'

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736'
const PARENT = '00f067aa0ba902b7'
const createHex = (byteCount: number) => 'ab'.repeat(byteCount)

describe('traceparent', () => {
  it('is gone on with, our span in between', () => {
    const context = openTraceContext(`00-${TRACE}-${PARENT}-00`, createHex)
    expect(context).toEqual({
      traceId: TRACE,
      spanId: 'abababababababab',
      parentSpanId: PARENT,
      isSampled: false,
    })
    expect(writeTraceparent(context)).toBe(`00-${TRACE}-abababababababab-00`)
  })

  it.each([
    undefined,
    '',
    `00-${TRACE}-${PARENT}`,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-01-more`,
    `00-${TRACE}-${PARENT}-01\r\nx: y`,
  ])('begins anew where it is %j', (header) => {
    expect(openTraceContext(header, createHex)).toEqual({
      traceId: 'ab'.repeat(16),
      spanId: 'abababababababab',
      parentSpanId: null,
      isSampled: true,
    })
  })

  it('of a later version is read as far as it is known', () => {
    expect(openTraceContext(`01-${TRACE}-${PARENT}-01-more`, createHex).traceId).toBe(TRACE)
  })
})

describe('meters', () => {
  it('count values into the bucket whose bound they do not exceed', () => {
    const meters = createMeters()
    const { bounds } = INSTRUMENTS['gen_ai.server.request.duration']
    for (const value of [0.005, 0.01, 0.011, 1e9]) {
      meters.record('gen_ai.server.request.duration', value, { model: 'a' })
    }
    const [series] = meters.read()
    expect(series).toMatchObject({ count: 4, sum: 1e9 + 0.026 })
    expect(series?.bucketCounts.slice(0, 3)).toEqual([2, 1, 0])
    expect(series?.bucketCounts[bounds.length]).toBe(1)
  })

  it('tell what is new since a reading, and nothing twice', () => {
    const meters = createMeters()
    meters.record('tallygate.fees', 5, { model: 'a' })
    meters.record('tallygate.fees', 7, { model: 'b' })
    const first = meters.read()
    meters.record('tallygate.fees', 2, { model: 'b' })
    meters.record('tallygate.fees', 1, { model: 'c' })
    const second = meters.read()
    expect(
      subtractReadings(second, first).map(({ attributes, sum }) => [attributes.model, sum]),
    ).toEqual([
      ['b', 2],
      ['c', 1],
    ])
    expect(subtractReadings(second, second)).toEqual([])
  })

  it('hold a limited number of series; what comes after is counted as one', () => {
    const meters = createMeters()
    for (let i = 0; i < 2_500; i++) meters.record('tallygate.fees', 1, { model: `m${i}` })
    const reading = meters.read()
    expect(reading).toHaveLength(2_001)
    expect(reading.at(-1)).toMatchObject({
      attributes: { 'otel.metric.overflow': 'true' },
      sum: 500,
    })
  })
})

describe('writers', () => {
  it('give Prometheus cumulative buckets under OpenTelemetry names, and escape labels', () => {
    const meters = createMeters()
    meters.record('gen_ai.server.time_to_first_token', 0.003, { 'gen_ai.request.model': 'a"\n\\' })
    meters.record('tallygate.requests', 1, { status: '200' })
    const text = writePrometheus(meters.read())
    const labels = 'gen_ai_request_model="a\\"\\n\\\\"'
    expect(text).toContain(
      `gen_ai_server_time_to_first_token_seconds_bucket{${labels},le="0.001"} 0\n`,
    )
    expect(text).toContain(
      `gen_ai_server_time_to_first_token_seconds_bucket{${labels},le="+Inf"} 1\n`,
    )
    expect(text).toContain(`gen_ai_server_time_to_first_token_seconds_count{${labels}} 1\n`)
    expect(text).toContain('# TYPE tallygate_requests_total counter\n')
    expect(text).toContain('tallygate_requests_total{status="200"} 1\n')
  })

  it('give OTLP the JSON form of its protobuf', () => {
    const trace = openTraceContext(`00-${TRACE}-${PARENT}-01`, createHex)
    const attributes = {
      'gen_ai.usage.input_tokens': 3,
      'gen_ai.request.model': 'a',
      left: undefined,
    }
    const times = { startedAtMs: 1_700_000_000_000, endedAtMs: 1_700_000_000_250 }
    expect(
      writeSpans([{ trace, name: 'chat a', ...times, attributes, errorCode: 'overloaded' }]),
    ).toMatchObject({
      resourceSpans: [
        {
          resource: { attributes: [{ key: 'service.name', value: { stringValue: 'tallygate' } }] },
          scopeSpans: [
            {
              spans: [
                {
                  traceId: TRACE,
                  parentSpanId: PARENT,
                  kind: 2,
                  startTimeUnixNano: '1700000000000000000',
                  endTimeUnixNano: '1700000000250000000',
                  attributes: [
                    { key: 'gen_ai.usage.input_tokens', value: { intValue: '3' } },
                    { key: 'gen_ai.request.model', value: { stringValue: 'a' } },
                    { key: 'error.type', value: { stringValue: 'overloaded' } },
                  ],
                  status: { code: 2 },
                },
              ],
            },
          ],
        },
      ],
    })
    const meters = createMeters()
    meters.record('gen_ai.client.token.usage', 5, {})
    expect(writeMetrics(meters.read(), { sinceMs: 1, untilMs: 2 })).toMatchObject({
      resourceMetrics: [
        {
          scopeMetrics: [
            {
              metrics: [
                {
                  name: 'gen_ai.client.token.usage',
                  unit: '{token}',
                  histogram: {
                    aggregationTemporality: 1,
                    dataPoints: [{ startTimeUnixNano: '1000000', count: '1', sum: 5 }],
                  },
                },
              ],
            },
          ],
        },
      ],
    })
  })
})
