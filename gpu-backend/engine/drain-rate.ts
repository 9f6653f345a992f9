/** Ends that the mean interval is taken over. */
const WINDOW_COUNT = 32

/** Tells a caller who found the queue full when a place will be free for it. */
export interface DrainRate {
  /** The queue is no longer empty: from now on requests end as fast as the engine can. */
  readonly noteBusy: (nowMs: number) => void
  /** An accepted request ended and so made place for another. */
  readonly noteEnd: (nowMs: number) => void
  /** The queue is empty: from now on requests end as they arrive, which says nothing about speed. */
  readonly noteEmpty: (nowMs: number) => void
  /**
   * Whole milliseconds until a place is free. Callers turned away one after another are each given
   * the next place instead of all the same one, at most the time in which all places change hands.
   */
  readonly promisePlaceMs: (nowMs: number) => number
}

/** `capacity`: places of waiting and running requests together. `initialIntervalMs`: the time between two ends that is assumed before one was seen. */
export function createDrainRate(capacity: number, initialIntervalMs: number): DrainRate {
  let knownIntervalMs = initialIntervalMs
  /** When the queue became busy, or the oldest end in the window; then the ends since. */
  let timesMs: number[] = []
  let promisedAtMs = Number.NEGATIVE_INFINITY

  function findIntervalMs(nowMs: number): number {
    const [startMs] = timesMs
    if (startMs === undefined) return knownIntervalMs
    const endCount = timesMs.length - 1
    if (endCount === 0) return Math.max(knownIntervalMs, nowMs - startMs)
    return (nowMs - startMs) / endCount
  }

  function noteEnd(nowMs: number): void {
    if (timesMs.length === 0) return
    timesMs.push(nowMs)
    if (timesMs.length > WINDOW_COUNT + 1) timesMs.shift()
  }

  function noteEmpty(nowMs: number): void {
    knownIntervalMs = findIntervalMs(nowMs)
    timesMs = []
  }

  function promisePlaceMs(nowMs: number): number {
    const intervalMs = findIntervalMs(nowMs)
    const latestMs = nowMs + capacity * intervalMs
    promisedAtMs = Math.min(Math.max(promisedAtMs, nowMs) + intervalMs, latestMs)
    return Math.max(1, Math.ceil(promisedAtMs - nowMs))
  }

  return {
    noteBusy: (nowMs) => {
      timesMs = [nowMs]
    },
    noteEnd,
    noteEmpty,
    promisePlaceMs,
  }
}
