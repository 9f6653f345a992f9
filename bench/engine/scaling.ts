import type { AdapterRegistry } from '../../gpu-backend/adapters/adapter-registry.ts'
import { createRandom } from '../../test/support/random.ts'
import type { AdapterPool } from './adapter-pool.ts'
import type { EngineBench } from './context.ts'
import { percentile, ratios, spreadOf } from './statistics.ts'
import {
  LENGTHS,
  openRegistry,
  runClosedLoop,
  runOpenLoop,
  type Serve,
  type Served,
  serveLeased,
} from './traffic.ts'
import { createPicker, type Popularity, planArrivals } from './workload.ts'

/** How many adapters are registered. Memory holds `RESIDENT_COUNT`: it overflows between 100 and 1,000. */
const COUNTS = [1, 10, 100, 1_000, 10_000] as const
const RESIDENT_COUNT = 200
const POPULARITIES: readonly Popularity[] = ['uniform', 'zipf']
const ARRIVALS = { Poisson: 1, 'gamma cv 4': 4 } as const
type ArrivalName = keyof typeof ARRIVALS

const ROUNDS = 2
const CLOSED_SECONDS = 5
const OPEN_SECONDS = 6
/** Of what one adapter can take; bursts go far beyond it. */
const OPEN_LOAD = 0.5
const FIRST_TOKEN_LIMIT_MS = 6_000

/** The p99 that passes as "no step" from one count to ten times as many. */
const STEP_LIMIT = 1.5

/** The whole path of a request, by how many adapters there are, against the same requests on one. */
export async function benchScaling(bench: EngineBench, pool: AdapterPool): Promise<void> {
  const sets = await openSets(bench, pool)
  const one = sets[0]
  if (one === undefined) throw new Error('there is a set of one')
  const { requestsPerSecond } = await runClosedLoop(
    planTrace(0, 8, 4),
    serveBy(bench, one, 'uniform'),
  )
  const throughput = new Measured<number>()
  const firstTokens = new Measured<Served[]>()
  for (let round = 0; round < ROUNDS; round++) {
    await runClosedRound(bench, sets, { round, requestsPerSecond, throughput })
    await runOpenRound(bench, sets, { round, requestsPerSecond, firstTokens })
  }
  for (const { close } of sets) await close()
  addThroughputRows(bench, throughput)
  for (const popularity of POPULARITIES) {
    for (const arrivals of ['Poisson', 'gamma cv 4'] as const) {
      addFirstTokenRow(bench, firstTokens, { popularity, arrivals })
    }
  }
}

interface AdapterSet {
  readonly count: number
  readonly registry: AdapterRegistry
  readonly close: () => Promise<void>
}

/** Each with adapters and a memory of its own, which holds as many of its favourites as fit. */
async function openSets(bench: EngineBench, pool: AdapterPool): Promise<readonly AdapterSet[]> {
  const total = COUNTS.reduce((sum, count) => sum + count, 0)
  const all = await pool.listMany(total)
  const sets: AdapterSet[] = []
  let first = 0
  for (const count of COUNTS) {
    const adapters = all.slice(first, first + count)
    first += count
    const ramBudgetBytes = RESIDENT_COUNT * (adapters[0]?.sizeBytes ?? 0)
    const { registry, close } = await openRegistry(bench, pool, { adapters, ramBudgetBytes })
    for (let index = Math.min(count, RESIDENT_COUNT) - 1; index >= 0; index--) {
      ;(await registry.lease(String(index)))?.release()
    }
    sets.push({ count, registry, close })
  }
  return sets
}

/** Samples by round, under the names of what was measured. */
class Measured<Sample> {
  readonly #samples = new Map<string, Sample[]>()

  add(name: string, sample: Sample): void {
    this.#samples.set(name, [...this.of(name), sample])
  }

  of(name: string): readonly Sample[] {
    return this.#samples.get(name) ?? []
  }
}

/** One adapter has one popularity. */
const listPopularities = (count: number) => (count === 1 ? (['uniform'] as const) : POPULARITIES)

const nameOf = (count: number, ...rest: readonly string[]) =>
  [count, ...(count === 1 ? rest.with(0, 'uniform') : rest)].join()

interface Round {
  readonly round: number
  /** That one adapter can take. */
  readonly requestsPerSecond: number
}

async function runClosedRound(
  bench: EngineBench,
  sets: readonly AdapterSet[],
  { round, requestsPerSecond, throughput }: Round & { throughput: Measured<number> },
) {
  const trace = planTrace(round, requestsPerSecond, CLOSED_SECONDS * bench.scale)
  for (const set of sets) {
    for (const popularity of listPopularities(set.count)) {
      const { tokensPerSecond } = await runClosedLoop(trace, serveBy(bench, set, popularity))
      throughput.add(nameOf(set.count, popularity), tokensPerSecond)
    }
  }
}

async function runOpenRound(
  bench: EngineBench,
  sets: readonly AdapterSet[],
  { round, requestsPerSecond, firstTokens }: Round & { firstTokens: Measured<Served[]> },
) {
  const seconds = OPEN_SECONDS * bench.scale
  for (const [arrivals, cv] of Object.entries(ARRIVALS)) {
    const trace = planTrace(round, OPEN_LOAD * requestsPerSecond, seconds, cv)
    for (const set of sets) {
      for (const popularity of listPopularities(set.count)) {
        const served = await runOpenLoop(trace, serveBy(bench, set, popularity))
        firstTokens.add(nameOf(set.count, popularity, arrivals), served)
      }
    }
  }
}

function planTrace(round: number, ratePerSecond: number, seconds: number, cv = 1) {
  return planArrivals(createRandom(round + 1), { ratePerSecond, seconds, cv, ...LENGTHS })
}

function serveBy(bench: EngineBench, { count, registry }: AdapterSet, by: Popularity): Serve {
  const pick = createPicker(count, by)
  return (arrival) => serveLeased(bench, registry, { id: String(pick(arrival.draw)), arrival })
}

function addThroughputRows(bench: EngineBench, throughput: Measured<number>): void {
  const one = throughput.of(nameOf(1, 'uniform'))
  const limits = new Map<number, number>([
    [1_000, 0.85],
    [10_000, 0.7],
  ])
  for (const count of COUNTS.slice(1)) {
    for (const popularity of POPULARITIES) {
      const own = throughput.of(nameOf(count, popularity))
      const value = limits.get(count)
      bench.add({
        bench: 'throughput by adapters',
        name: `${count.toLocaleString('en')} against 1, ${popularity}`,
        figure: ratios(own, one),
        target: value === undefined ? null : { kind: 'at least', value },
        context: `${spreadOf(own).median.toFixed(0)} against ${spreadOf(one).median.toFixed(0)} tok/s, prompts too; memory for ${RESIDENT_COUNT}`,
      })
    }
  }
}

function addFirstTokenRow(
  bench: EngineBench,
  firstTokens: Measured<Served[]>,
  { popularity, arrivals }: { popularity: Popularity; arrivals: ArrivalName },
): void {
  const timesOf = (count: number) =>
    firstTokens
      .of(nameOf(count, popularity, arrivals))
      .flat()
      .map(({ firstTokenMs }) => firstTokenMs)
  const p99Of = (count: number) => percentile(timesOf(count), 0.99)
  const curve = COUNTS.map(
    (count) => `${p99Of(count).toFixed(0)} ms at ${count.toLocaleString('en')}`,
  )
  const all = COUNTS.flatMap(timesOf)
  const attained = all.filter((time) => time < FIRST_TOKEN_LIMIT_MS).length / all.length
  const step = p99Of(1_000) / p99Of(100)
  bench.add({
    bench: 'p99 first token where memory overflows',
    name: `1,000 against 100, ${popularity}, ${arrivals}`,
    figure: spreadOf([step]),
    target: { kind: 'at most', value: STEP_LIMIT },
    context: `${curve.join(', ')}; of ${timesOf(1).length} each; ${(100 * attained).toFixed(1)} % within 6 s`,
  })
}
