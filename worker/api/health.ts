import type { AppContext } from './app-context.ts'

/** `GET /health`: 200 while at least one backend answers, else 503. Says nothing of where they are. */
export async function getHealth(c: AppContext): Promise<Response> {
  const snapshots = await c.var.services.catalogue.read((work) => c.executionCtx.waitUntil(work))
  const isServing = snapshots.some((snapshot) => snapshot.isReachable)
  const backends = snapshots.map((snapshot) => ({
    id: snapshot.backendId,
    reachable: snapshot.isReachable,
    model_count: snapshot.models.length,
  }))
  return c.json({ status: isServing ? 'ok' : 'no_backend', backends }, isServing ? 200 : 503)
}
