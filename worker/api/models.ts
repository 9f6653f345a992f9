import { z } from 'zod'
import { backendModelSchema } from '../../protocol/backend.ts'
import { showTo } from '../dispatch/visible-models.ts'
import { ApiError } from '../errors.ts'
import type { AppContext } from './app-context.ts'
import { describeCaller } from './describe-caller.ts'

export const modelSchema = backendModelSchema.omit({ tenant: true }).meta({
  id: 'Model',
  description: 'A base model, or an adapter with `parent` set.',
})

type Model = z.infer<typeof modelSchema>

export const modelListSchema = z
  .strictObject({ object: z.literal('list'), data: z.array(modelSchema) })
  .meta({ id: 'ModelList' })

/** `GET /v1/models`: what the reachable backends serve and this key may use, each once. */
export async function listModels(c: AppContext): Promise<Response> {
  return c.json({ object: 'list', data: await findModels(c) })
}

/** `GET /v1/models/{id}`; ids may contain `/` and `:`. */
export async function getModel(c: AppContext): Promise<Response> {
  const id = c.req.param('id') ?? ''
  const model = (await findModels(c)).find((candidate) => candidate.id === id)
  if (model === undefined) {
    throw new ApiError('model_not_found', {
      message: `The model ${JSON.stringify(id)} does not exist.`,
      param: 'model',
    })
  }
  return c.json(model)
}

async function findModels(c: AppContext): Promise<readonly Model[]> {
  const { key, accountId } = await describeCaller(c)
  const listed = await c.var.services.catalogue.read((work) => c.executionCtx.waitUntil(work))
  const snapshots = showTo(accountId, listed)
  const reachable = snapshots.filter((snapshot) => snapshot.isReachable)
  if (reachable.length === 0) throw new ApiError('no_backend', { retryAfterMs: 1_000 })
  const models = new Map<string, Model>()
  for (const { tenant: _, ...model } of reachable.flatMap((snapshot) => snapshot.models)) {
    const isAllowed = key.models === null || key.models.includes(model.id)
    if (isAllowed && !models.has(model.id)) models.set(model.id, model)
  }
  return [...models.values()]
}
