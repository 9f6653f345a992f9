import type { Log } from '../log.ts'
import { describeError } from '../log.ts'
import { type BackendAddress, fetchModels } from './backend-client.ts'
import type { BackendSnapshot } from './pick-backend.ts'
import { partByOwner } from './visible-models.ts'

export interface ModelCatalogue {
  /** What the backends list, at most `FRESH_MS` old, or `STALE_MS` while a newer list is on its way. */
  readonly read: (
    waitUntil: (work: Promise<unknown>) => void,
  ) => Promise<readonly BackendSnapshot[]>
  /** What they list, at most `FRESH_MS` old. */
  readonly readFresh: () => Promise<readonly BackendSnapshot[]>
  /** Asks all backends now. */
  readonly refresh: () => Promise<readonly BackendSnapshot[]>
}

/** A list this young is used as it is. */
const FRESH_MS = 1_000
/** A list this young is used while one request fetches a newer one. */
const STALE_MS = 10_000

/**
 * What models the backends serve. Kept in the isolate as plain data and never as a promise: in
 * workerd, a request that awaits another request's I/O hangs. A backend that is silent keeps its last
 * list, marked unreachable, unless it has answered somebody else meanwhile.
 */
export function createModelCatalogue(
  backends: readonly BackendAddress[],
  log: Log,
): ModelCatalogue {
  let snapshots: readonly BackendSnapshot[] = []
  const answers = new Map<
    string,
    { readonly listed: ReturnType<typeof partByOwner>; readonly atMs: number }
  >()
  let readAtMs = Number.NEGATIVE_INFINITY
  let refreshBeganAtMs = Number.NEGATIVE_INFINITY

  async function refresh(): Promise<readonly BackendSnapshot[]> {
    const beganAtMs = Date.now()
    refreshBeganAtMs = beganAtMs
    const fetched = await Promise.all(backends.map((backend) => fetchSnapshot(backend, beganAtMs)))
    snapshots = fetched
    readAtMs = Date.now()
    return fetched
  }

  async function fetchSnapshot(
    backend: BackendAddress,
    beganAtMs: number,
  ): Promise<BackendSnapshot> {
    try {
      const listed = partByOwner(await fetchModels(backend))
      answers.set(backend.id, { listed, atMs: Date.now() })
      return { backendId: backend.id, isReachable: true, ...listed }
    } catch (error) {
      log('backend_failed', { backendId: backend.id, ...describeError(error) })
      const last = answers.get(backend.id)
      const isReachable = last !== undefined && last.atMs >= beganAtMs
      return { backendId: backend.id, isReachable, ...(last?.listed ?? { models: [] }) }
    }
  }

  return {
    refresh,
    readFresh: async () => (Date.now() - readAtMs <= FRESH_MS ? snapshots : refresh()),
    read: async (waitUntil) => {
      const nowMs = Date.now()
      if (nowMs - readAtMs <= FRESH_MS) return snapshots
      if (nowMs - readAtMs > STALE_MS) return refresh()
      if (nowMs - refreshBeganAtMs > FRESH_MS) waitUntil(refresh())
      return snapshots
    },
  }
}
