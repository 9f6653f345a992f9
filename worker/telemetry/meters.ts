/** Attributes of a series, in the same order each time. Never a prompt, an answer, a key or an account: they are metrics' labels. */
export type Attributes = Readonly<Record<string, string>>

interface Instrument {
  readonly unit: string
  readonly description: string
  /** Upper bounds of a histogram's buckets; absent for a counter. */
  readonly bounds?: readonly number[]
}

const DURATION_BOUNDS = [
  0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
]
const FIRST_TOKEN_BOUNDS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
]
const TOKEN_BOUNDS = [
  1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216,
  67_108_864,
]

/** Names, units and buckets of `gen_ai.*` are OpenTelemetry's semantic conventions for generative AI. */
export const INSTRUMENTS = {
  'gen_ai.server.request.duration': {
    unit: 's',
    description: 'Time from a request for text to the end of its answer.',
    bounds: DURATION_BOUNDS,
  },
  'gen_ai.server.time_to_first_token': {
    unit: 's',
    description: 'Time from a streamed request to its first token.',
    bounds: FIRST_TOKEN_BOUNDS,
  },
  'gen_ai.client.token.usage': {
    unit: '{token}',
    description: 'Billed tokens a request.',
    bounds: TOKEN_BOUNDS,
  },
  'tallygate.requests': {
    unit: '{request}',
    description: 'Answered requests, by route and status.',
  },
  'tallygate.account.calls': {
    unit: '{call}',
    description: 'Calls of account objects that admit or describe, by what they answered.',
  },
  'tallygate.shielded': {
    unit: '{request}',
    description: 'Refusals without a call of the account object, by what it answered before.',
  },
  'tallygate.fees': { unit: '{micro_usd}', description: 'Settled fees, micro-USD.' },
} as const satisfies Record<string, Instrument>

export type InstrumentName = keyof typeof INSTRUMENTS

/** One instrument's values of one set of attributes. A counter has no buckets, and counts in `sum`. */
export interface Series {
  readonly name: InstrumentName
  readonly attributes: Attributes
  readonly count: number
  readonly sum: number
  /** How many values fell into each bucket, the last one without a bound. */
  readonly bucketCounts: readonly number[]
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
type Cell = Mutable<Omit<Series, 'bucketCounts'>> & { readonly bucketCounts: number[] }

/** New sets of attributes beyond this many are counted together under `overflow`, as OpenTelemetry asks. */
const MAX_SERIES_COUNT = 2_000
const OVERFLOW = { 'otel.metric.overflow': 'true' } as const

/** Counters and histograms of one isolate. */
export interface Meters {
  readonly record: (name: InstrumentName, value: number, attributes: Attributes) => void
  /** Everything since the isolate began. */
  readonly read: () => readonly Series[]
}

export function createMeters(): Meters {
  const cells = new Map<string, Cell>()

  function find(name: InstrumentName, attributes: Attributes): Cell {
    const key = `${name} ${JSON.stringify(attributes)}`
    const known = cells.get(key)
    if (known !== undefined) return known
    if (cells.size >= MAX_SERIES_COUNT && attributes !== OVERFLOW) return find(name, OVERFLOW)
    const { bounds }: Instrument = INSTRUMENTS[name]
    const bucketCounts = bounds === undefined ? [] : new Array<number>(bounds.length + 1).fill(0)
    const cell = { name, attributes, count: 0, sum: 0, bucketCounts }
    cells.set(key, cell)
    return cell
  }

  return {
    record: (name, value, attributes) => {
      const cell = find(name, attributes)
      cell.count += 1
      cell.sum += value
      const { bounds }: Instrument = INSTRUMENTS[name]
      if (bounds === undefined) return
      const bucket = bounds.findIndex((bound) => value <= bound)
      const index = bucket === -1 ? bounds.length : bucket
      cell.bucketCounts[index] = (cell.bucketCounts[index] ?? 0) + 1
    },
    read: () =>
      [...cells.values()].map((cell) => ({ ...cell, bucketCounts: [...cell.bucketCounts] })),
  }
}

/** What `now` counts beyond `before`, an earlier reading of the same meters; series without news are left out. */
export function subtractReadings(
  now: readonly Series[],
  before: readonly Series[],
): readonly Series[] {
  // Series never go and keep their order.
  return now
    .map((series, index) => {
      const earlier = before[index]
      if (earlier === undefined) return series
      const bucketCounts = series.bucketCounts.map((n, i) => n - (earlier.bucketCounts[i] ?? 0))
      return {
        ...series,
        count: series.count - earlier.count,
        sum: series.sum - earlier.sum,
        bucketCounts,
      }
    })
    .filter(({ count }) => count > 0)
}
