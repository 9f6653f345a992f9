import { INSTRUMENTS, type InstrumentName, type Series } from './meters.ts'

/** `text/plain; version=0.0.4`, the exposition format that every Prometheus reads. */
export const PROMETHEUS_CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

const UNIT_SUFFIXES: Readonly<Record<string, string>> = { s: '_seconds' }

/** Metrics under the names that OpenTelemetry's Prometheus exporter gives them. */
export function writePrometheus(reading: readonly Series[]): string {
  const byName = Map.groupBy(reading, ({ name }) => name)
  return [...byName].map(([name, series]) => writeMetric(name, series)).join('')
}

function writeMetric(name: InstrumentName, allSeries: readonly Series[]): string {
  const { unit, description } = INSTRUMENTS[name]
  const base = `${name.replace(/\./g, '_')}${UNIT_SUFFIXES[unit] ?? ''}`
  const bounds = boundsOf(name)
  const metric = bounds === null ? `${base}_total` : base
  const lines = [
    `# HELP ${metric} ${description}`,
    `# TYPE ${metric} ${bounds === null ? 'counter' : 'histogram'}`,
    ...allSeries.flatMap((series) => {
      const labels = writeLabels(series)
      if (bounds === null) return [`${metric}${enclose(labels)} ${series.sum}`]
      let below = 0
      const buckets = [...bounds.map(String), '+Inf'].map((bound, index) => {
        below += series.bucketCounts[index] ?? 0
        return `${metric}_bucket${enclose([...labels, `le="${bound}"`])} ${below}`
      })
      return [
        ...buckets,
        `${metric}_sum${enclose(labels)} ${series.sum}`,
        `${metric}_count${enclose(labels)} ${series.count}`,
      ]
    }),
  ]
  return `${lines.join('\n')}\n`
}

function boundsOf(name: InstrumentName): readonly number[] | null {
  const instrument = INSTRUMENTS[name]
  return 'bounds' in instrument ? instrument.bounds : null
}

function writeLabels({ attributes }: Series): readonly string[] {
  return Object.entries(attributes).map(([name, value]) => {
    const escaped = value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')
    return `${name.replace(/\W/g, '_')}="${escaped}"`
  })
}

function enclose(labels: readonly string[]): string {
  return labels.length === 0 ? '' : `{${labels.join(',')}}`
}
