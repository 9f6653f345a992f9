import type { EngineHandle } from '../engine-handle.ts'

/** Everyone who waits asks about once a second; the engine is asked once for all of them. */
const KEPT_MS = 250

/** Tells how many requests go before one that waits, and itself; null: it does not wait, or far behind. */
export function createQueuePositions(
  engine: Pick<EngineHandle, 'stats'>,
  now: () => number,
): (requestId: string) => Promise<number | null> {
  let askedAtMs = Number.NEGATIVE_INFINITY
  let places: Promise<ReadonlyMap<string, number>> = Promise.resolve(new Map())

  const ask = async () => {
    const { waitingIds } = await engine.stats()
    const found = new Map<string, number>()
    for (const [index, id] of waitingIds.entries()) {
      const [requestId = ''] = id.split('#') // a choice of several
      if (!found.has(requestId)) found.set(requestId, index + 1)
    }
    return found
  }

  return async (requestId) => {
    if (now() - askedAtMs >= KEPT_MS) {
      askedAtMs = now()
      places = ask()
    }
    return (await places).get(requestId) ?? null
  }
}
