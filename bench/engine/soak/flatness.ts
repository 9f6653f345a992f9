import type { Sample } from './checkpoint.ts'

/** Not `busyRssBytes`: garbage is in it, of which V8 collects as much as it likes. */
type Measure = Exclude<keyof Sample, 'busyRssBytes'>

/** How much more the last third of the samples may be on average than the first: a part, and so much besides. */
const BOUNDS: Readonly<Record<Measure, { readonly part: number; readonly besides: number }>> = {
  rssBytes: { part: 0.05, besides: 16e6 },
  mainHeapBytes: { part: 0.05, besides: 2e6 },
  engineHeapBytes: { part: 0.05, besides: 2e6 },
  openFileCount: { part: 0.05, besides: 32 },
}

/** Part of the samples that are left out at the beginning: caches fill, code is compiled. */
const WARM_UP = 1 / 4

export interface Growth {
  readonly firstThird: number
  readonly lastThird: number
  /** By the line of least squares through all samples after the warm-up, over their time. */
  readonly fitted: number
  readonly most: number
  readonly isFlat: boolean
}

/** Of each measure, taken at equal distances of time. */
export function findGrowth(samples: readonly Sample[]): Readonly<Record<Measure, Growth>> {
  const warm = samples.slice(Math.ceil(samples.length * WARM_UP))
  const growthOf = (name: Measure) =>
    describeGrowth(
      warm.map((sample) => sample[name]),
      BOUNDS[name],
    )
  return {
    rssBytes: growthOf('rssBytes'),
    mainHeapBytes: growthOf('mainHeapBytes'),
    engineHeapBytes: growthOf('engineHeapBytes'),
    openFileCount: growthOf('openFileCount'),
  }
}

function describeGrowth(
  values: readonly number[],
  { part, besides }: { readonly part: number; readonly besides: number },
): Growth {
  const third = Math.max(1, Math.floor(values.length / 3))
  const firstThird = mean(values.slice(0, third))
  const lastThird = mean(values.slice(-third))
  const fitted = slope(values) * (values.length - 1)
  const most = firstThird * part + besides
  const isFlat = lastThird - firstThird <= most && fitted <= 1.5 * most
  return { firstThird, lastThird, fitted, most, isFlat }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

/** Per sample. */
function slope(values: readonly number[]): number {
  const middle = (values.length - 1) / 2
  const average = mean(values)
  let above = 0
  let below = 0
  for (const [at, value] of values.entries()) {
    above += (at - middle) * (value - average)
    below += (at - middle) ** 2
  }
  return below === 0 ? 0 : above / below
}
