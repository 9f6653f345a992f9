/** Content chunks of a stream of the mock upstream; its pace is that of a fast model. */
export const CHUNK_COUNT = 32
export const CHUNK_INTERVAL_MS = 20

/** Microseconds on the machine's monotonic clock, the same in every process. */
export function monotonicUs(): number {
  return Number(process.hrtime.bigint() / 1_000n)
}
