import { z } from 'zod'
import type { AppContext } from './app-context.ts'

export const healthSchema = z
  .strictObject({
    status: z.enum(['ok', 'no_backend']),
    backends: z.array(
      z.strictObject({ id: z.string(), reachable: z.boolean(), model_count: z.int() }),
    ),
  })
  .meta({ id: 'Health' })

/** `GET /health`: 200 while at least one backend answers, else 503. Says nothing of where they are. */
export async function getHealth(c: AppContext): Promise<Response> {
  const snapshots = await c.var.services.catalogue.read((work) => c.executionCtx.waitUntil(work))
  const isServing = snapshots.some((snapshot) => snapshot.isReachable)
  const backends = snapshots.map((snapshot) => ({
    id: snapshot.backendId,
    reachable: snapshot.isReachable,
    model_count: snapshot.models.length,
  }))
  const body: z.input<typeof healthSchema> = { status: isServing ? 'ok' : 'no_backend', backends }
  return c.json(body, isServing ? 200 : 503)
}
