import type { BackendContext, Services } from './services.ts'

/** `GET /health`: 200 while the engine takes requests and answers within five seconds, else 503. */
export async function answerHealth(c: BackendContext, services: Services): Promise<Response> {
  const { engine, model, shutdownSignal } = services
  const isServing = !shutdownSignal.aborted && (await answersWithin(5000, engine.stats()))
  return isServing
    ? c.json({ status: 'ok', model: model.id, digest: model.digest })
    : c.json({ status: 'unavailable', model: model.id, digest: model.digest }, 503)
}

async function answersWithin(limitMs: number, answer: Promise<unknown>): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>()
  const timer = setTimeout(resolve, limitMs, false)
  const answered = answer.then(
    () => true,
    () => false,
  )
  return Promise.race([answered, late]).finally(() => clearTimeout(timer))
}
