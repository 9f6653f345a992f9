/** Request traces as S-LoRA generates them (Sheng et al., "S-LoRA", 2023, section 7.1), from a seed. */

export interface Arrival {
  /** From the trace's start. */
  readonly atMs: number
  readonly promptTokenCount: number
  readonly maxTokens: number
  /** Uniform in [0, 1): which adapter it is, by `pickAdapter`. The same trace then serves any number of them. */
  readonly draw: number
}

export interface WorkloadOptions {
  readonly ratePerSecond: number
  readonly seconds: number
  /** Coefficient of variation of the times between arrivals, which are gamma distributed: 1 is Poisson's process. */
  readonly cv: number
  /** Lengths are uniform between these. */
  readonly promptTokens: readonly [least: number, most: number]
  readonly maxTokens: readonly [least: number, most: number]
}

/** `ratePerSecond · seconds` arrivals, stretched to end within `seconds`, so that each trace offers the same load. */
export function planArrivals(random: () => number, options: WorkloadOptions): readonly Arrival[] {
  const { ratePerSecond, seconds, cv, promptTokens, maxTokens } = options
  const count = Math.max(2, Math.round(ratePerSecond * seconds))
  const shape = 1 / cv ** 2
  const times = runningSums(Array.from({ length: count }, () => drawGamma(random, shape)))
  const stretch = (1000 * seconds) / (times.at(-1) ?? 1)
  return times.map((at) => ({
    atMs: at * stretch,
    promptTokenCount: drawWithin(random, promptTokens),
    maxTokens: drawWithin(random, maxTokens),
    draw: random(),
  }))
}

export type Popularity = 'uniform' | 'zipf'

/** Turns draws into adapters 0 … count − 1; by Zipf's law with exponent 1.1 the first is asked for most. */
export function createPicker(count: number, popularity: Popularity): (draw: number) => number {
  if (popularity === 'uniform') return (draw) => Math.floor(draw * count)
  const sums = runningSums(Array.from({ length: count }, (_, rank) => (rank + 1) ** -1.1))
  const total = sums.at(-1) ?? 0
  return (draw) => sums.findIndex((sum) => sum > draw * total)
}

function runningSums(values: readonly number[]): number[] {
  let sum = 0
  return values.map((value) => {
    sum += value
    return sum
  })
}

function drawWithin(random: () => number, [least, most]: readonly [number, number]): number {
  return least + Math.floor(random() * (most - least + 1))
}

/** Marsaglia and Tsang's method; below shape 1 by that of shape + 1. */
function drawGamma(random: () => number, shape: number): number {
  if (shape < 1) return drawGamma(random, shape + 1) * (1 - random()) ** (1 / shape)
  const d = shape - 1 / 3
  const c = 1 / Math.sqrt(9 * d)
  for (;;) {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
    const v = (1 + c * normal) ** 3
    if (v <= 0) continue
    if (Math.log(1 - random()) < 0.5 * normal ** 2 + d - d * v + d * Math.log(v)) return d * v
  }
}
