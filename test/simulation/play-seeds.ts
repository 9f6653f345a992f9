import { registerHooks } from 'node:module'
import { parentPort, workerData } from 'node:worker_threads'

/** What the platform gives to an object's class. */
const CLOUDFLARE_WORKERS = `export class DurableObject {
  constructor(ctx, env) {
    this.ctx = ctx
    this.env = env
  }
}`

registerHooks({
  resolve: (specifier, context, next) =>
    specifier === 'cloudflare:workers'
      ? {
          url: `data:text/javascript,${encodeURIComponent(CLOUDFLARE_WORKERS)}`,
          shortCircuit: true,
        }
      : next(specifier, context),
})

const { simulate } = await import('./simulate.ts')

/** Plays the seeds one after the other, says how each ended, and stops at the first that fails. */
const { seeds } = workerData as { readonly seeds: readonly number[] } // of simulation.test.ts
for (const seed of seeds) {
  const summary = await simulate(seed).catch((cause: unknown) => {
    throw new Error(`SIMULATION_SEED=${seed}: ${String(cause)}`, { cause })
  })
  parentPort?.postMessage({ seed, summary })
}
