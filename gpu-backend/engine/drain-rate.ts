/** How much of what was measured is kept at each end: a mean over about the last 32. */
const KEPT_SHARE = 31 / 32

/** Tells a caller who found the queue full when a place will be free for it. */
export interface DrainRate {
  /** Requests wait: from now on they end as fast as the engine can. */
  readonly noteBusy: (nowMs: number) => void
  /** Nobody waits: from now on requests end as they arrive, which says nothing about speed. */
  readonly noteEmpty: (nowMs: number) => void
  /** An accepted request ended and so made place for another. */
  readonly noteEnd: (nowMs: number) => void
  /**
   * Whole milliseconds until `count` places are free. Callers turned away one after another are each
   * given the next places instead of all the same ones, at most the time in which all change hands.
   */
  readonly promisePlacesMs: (nowMs: number, count: number) => number
}

/** `capacity`: places of waiting and running requests together. `initialIntervalMs`: the time between two ends that is assumed before any was seen. */
export function createDrainRate(capacity: number, initialIntervalMs: number): DrainRate {
  let busySinceMs: number | null = null
  let busyMs = initialIntervalMs
  let endCount = 1
  let promisedAtMs = Number.NEGATIVE_INFINITY

  function countBusyTime(nowMs: number): void {
    if (busySinceMs === null) return
    busyMs += nowMs - busySinceMs
    busySinceMs = nowMs
  }

  return {
    noteBusy(nowMs) {
      busySinceMs = nowMs
    },
    noteEmpty(nowMs) {
      countBusyTime(nowMs)
      busySinceMs = null
    },
    noteEnd(nowMs) {
      if (busySinceMs === null) return
      busyMs *= KEPT_SHARE
      countBusyTime(nowMs)
      endCount = endCount * KEPT_SHARE + 1
    },
    promisePlacesMs(nowMs, count) {
      countBusyTime(nowMs)
      const intervalMs = busyMs / endCount
      const latestMs = nowMs + capacity * intervalMs
      promisedAtMs = Math.min(Math.max(promisedAtMs, nowMs) + count * intervalMs, latestMs)
      return Math.max(1, Math.ceil(promisedAtMs - nowMs))
    },
  }
}
