import { setMaxListeners } from 'node:events'
import { createRandom } from '../../test/support/random.ts'
import type { EngineBench } from './context.ts'
import { percentile, spreadOf } from './statistics.ts'
import { LENGTHS, runClosedLoop, runOpenLoop, type Served, serveOne } from './traffic.ts'
import { planArrivals } from './workload.ts'

const SECONDS = 10
const ROUNDS = 2
/** Of what the engine can take: what the patient tenant sends. */
const LOAD = 0.2

/** What the other tenant sends, as a multiple of the same. */
const NEIGHBOURS = { alone: 0, 'beside an equal': 1, flooded: 10 } as const
type Neighbour = keyof typeof NEIGHBOURS

/** A tenant's first tokens alone, beside another one that sends as much, and beside one that floods. */
export async function benchFairness(bench: EngineBench): Promise<void> {
  const planned = planArrivals(createRandom(7), { ratePerSecond: 8, seconds: 6, cv: 1, ...LENGTHS })
  const { requestsPerSecond } = await runClosedLoop(planned, (arrival) =>
    serveOne(bench, arrival, { tenant: 'anyone' }),
  )
  const served: Record<Neighbour, Served[]> = { alone: [], 'beside an equal': [], flooded: [] }
  for (let round = 0; round < ROUNDS; round++) {
    for (const neighbour of ['alone', 'beside an equal', 'flooded'] as const) {
      served[neighbour].push(...(await runBeside(bench, neighbour, { round, requestsPerSecond })))
    }
  }
  const p99Of = (neighbour: Neighbour) =>
    percentile(
      served[neighbour].map(({ firstTokenMs }) => firstTokenMs),
      0.99,
    )
  const times = `${p99Of('flooded').toFixed(0)} ms flooded, ${p99Of('beside an equal').toFixed(0)} ms beside an equal, ${p99Of('alone').toFixed(0)} ms alone, of ${served.alone.length} each`
  const row = (name: string, against: Neighbour, value: number | null) =>
    bench.add({
      bench: 'fairness',
      name,
      figure: spreadOf([p99Of('flooded') / p99Of(against)]),
      target: value === null ? null : { kind: 'at most', value },
      context: times,
    })
  row('p99 first token, flooded by 10× against alone', 'alone', 1.5)
  row('p99 first token, flooded by 10× against beside an equal', 'beside an equal', null)
}

async function runBeside(
  bench: EngineBench,
  neighbour: Neighbour,
  { round, requestsPerSecond }: { round: number; requestsPerSecond: number },
): Promise<readonly Served[]> {
  const plan = (seed: number, times: number) =>
    planArrivals(createRandom(seed), {
      ratePerSecond: LOAD * requestsPerSecond * times,
      seconds: SECONDS * bench.scale,
      cv: 1,
      ...LENGTHS,
    })
  const stop = new AbortController()
  setMaxListeners(0, stop.signal)
  const others = NEIGHBOURS[neighbour] === 0 ? [] : plan(100 + round, NEIGHBOURS[neighbour])
  const crowd = runOpenLoop(others, (arrival) =>
    serveOne(bench, arrival, { tenant: 'neighbour', signal: stop.signal }),
  )
  const own = await runOpenLoop(plan(round, 1), (arrival) =>
    serveOne(bench, arrival, { tenant: 'patient' }),
  )
  stop.abort()
  await crowd
  return own
}
