import { median, ratios, type Spread } from './statistics.ts'

/** One measurement; CPU time is that of the whole process, both of our threads and the peer's. */
export interface Sample {
  readonly tokensPerSecond: number
  readonly cpuMsPerToken: number
}

/** Runs each contestant once a round, one after the other, so that a drift of the machine meets all of them. */
export async function runRounds<Name extends string>(
  roundCount: number,
  contestants: Readonly<Record<Name, () => Promise<Sample>>>,
): Promise<Record<Name, readonly Sample[]>> {
  const names = Object.keys(contestants) as Name[] // which are all that it has
  const samples = Object.fromEntries(names.map((name) => [name, []])) as unknown as Record<
    Name,
    Sample[]
  > // as above
  for (let round = 0; round < roundCount; round++) {
    for (const name of names) samples[name].push(await contestants[name]())
  }
  return samples
}

/** Takes the time of `run`, which computes `tokenCount` tokens. */
export async function timeTokens(tokenCount: number, run: () => Promise<unknown>): Promise<Sample> {
  const cpu = process.cpuUsage()
  const startedAt = performance.now()
  await run()
  const seconds = (performance.now() - startedAt) / 1000
  return { tokensPerSecond: tokenCount / seconds, cpuMsPerToken: cpuMs(cpu) / tokenCount }
}

export function cpuMs(since: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1000
}

export function compareSpeed(own: readonly Sample[], other: readonly Sample[]): Spread {
  return ratios(own.map(speedOf), other.map(speedOf))
}

/** Both in tokens a second, and how many times our CPU time a token the other's is. */
export function describeSpeeds(own: readonly Sample[], other: readonly Sample[]): string {
  const cpu = ratios(other.map(cpuOf), own.map(cpuOf)).median
  const [ownSpeed, otherSpeed] = [own, other].map((samples) => median(samples.map(speedOf)))
  return `${ownSpeed?.toFixed(0)} against ${otherSpeed?.toFixed(0)} tok/s; by CPU time ${cpu.toFixed(2)}×`
}

const speedOf = ({ tokensPerSecond }: Sample) => tokensPerSecond
const cpuOf = ({ cpuMsPerToken }: Sample) => cpuMsPerToken
