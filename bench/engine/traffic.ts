import { setTimeout } from 'node:timers/promises'
import type { AdapterRegistry } from '../../gpu-backend/adapters/adapter-registry.ts'
import { createAdapters } from '../../gpu-backend/adapters/create-adapters.ts'
import { BackendError } from '../../gpu-backend/errors.ts'
import type { AdapterPool, ManyAdapter } from './adapter-pool.ts'
import type { EngineBench } from './context.ts'
import { ask } from './own-engine.ts'
import { draw } from './step.ts'
import type { Arrival } from './workload.ts'

/** Lengths of S-LoRA's traces, an eighth of them: a CPU's minute has as many requests as a GPU's seconds. */
export const LENGTHS = { promptTokens: [8, 64], maxTokens: [4, 16] } as const

/** One request as its sender saw it. */
export interface Served {
  /** Its adapter's load too; Infinity where it was refused. */
  readonly firstTokenMs: number
  readonly tokenCount: number
}

export type Serve = (arrival: Arrival) => Promise<Served>

/** Sends each request at its time. */
export async function runOpenLoop(arrivals: readonly Arrival[], serve: Serve): Promise<Served[]> {
  const startedAt = performance.now()
  const running: Promise<Served>[] = []
  for (const arrival of arrivals) {
    await setTimeout(Math.max(0, startedAt + arrival.atMs - performance.now()))
    running.push(serve(arrival))
  }
  return Promise.all(running)
}

const CLIENT_COUNT = 24

/** Sends each request when one of 24 clients is free; tokens and requests a second over all. */
export async function runClosedLoop(arrivals: readonly Arrival[], serve: Serve) {
  const startedAt = performance.now()
  const queue = arrivals.values()
  let tokenCount = 0
  const work = async () => {
    for (const arrival of queue) {
      const served = await serve(arrival)
      tokenCount += served.tokenCount // in one turn: others add theirs meanwhile
    }
  }
  await Promise.all(Array.from({ length: CLIENT_COUNT }, work))
  const seconds = (performance.now() - startedAt) / 1000
  return { tokensPerSecond: tokenCount / seconds, requestsPerSecond: arrivals.length / seconds }
}

export interface ServeOptions {
  readonly tenant: string
  readonly adapter?: string | null
  readonly signal?: AbortSignal
}

/** One request to the engine. */
export async function serveOne(
  bench: EngineBench,
  { promptTokenCount, maxTokens }: Arrival,
  { signal, ...options }: ServeOptions,
): Promise<Served> {
  const promptTokens = draw(bench, promptTokenCount)
  const answer = await ask(bench.engine, { promptTokens, maxTokens, ...options }, signal)
  const [firstAtMs = Number.POSITIVE_INFINITY] = answer.tokenTimesMs
  const tokenCount = answer.usage === null ? 0 : promptTokenCount + maxTokens
  return { firstTokenMs: firstAtMs - answer.submittedAtMs, tokenCount }
}

/** One request through the registry: its adapter is brought into memory, as for a request by HTTP. */
export async function serveLeased(
  bench: EngineBench,
  registry: AdapterRegistry,
  { id, arrival }: { readonly id: string; readonly arrival: Arrival },
): Promise<Served> {
  const arrivedAt = performance.now()
  try {
    const lease = await registry.lease(id)
    if (lease === null) throw new Error(`Adapter ${id} is registered.`)
    const waitedMs = performance.now() - arrivedAt
    const adapter = lease.version.digest
    try {
      const served = await serveOne(bench, arrival, { tenant: id, adapter })
      return { ...served, firstTokenMs: waitedMs + served.firstTokenMs }
    } finally {
      lease.release()
    }
  } catch (error) {
    if (!(error instanceof BackendError) || error.code !== 'overloaded') throw error
    return { firstTokenMs: Number.POSITIVE_INFINITY, tokenCount: 0 }
  }
}

/** The product's own registry and residency over the bench's engine, with these adapters registered as `0`, `1`, …. */
export async function openRegistry(
  { engine }: EngineBench,
  pool: AdapterPool,
  options: { readonly adapters: readonly ManyAdapter[]; readonly ramBudgetBytes: number },
) {
  const { name, digest: modelDigest, config } = engine.model
  const { registry, stats } = createAdapters({
    engine,
    model: { id: name, digest: modelDigest, config },
    rootDir: pool.rootDir,
    store: null,
    hub: { hubUrl: 'http://127.0.0.1' },
    maxFileBytes: 1_000_000_000,
    ramBudgetBytes: options.ramBudgetBytes,
    maxWaitingCount: 256,
    maxCount: options.adapters.length,
    maxTenantCount: 0,
    openAttributor: () => Promise.reject(new Error('no adapter names a datanet')),
    log: (_, event, fields) => console.error(event, fields),
    now: Date.now,
  })
  const restore = (index: number) => {
    const adapter = options.adapters[index]
    if (adapter === undefined) throw new RangeError(`There is no adapter ${index}.`)
    const { folder, digest, sizeBytes } = adapter
    return registry.restore({
      version: 1,
      id: String(index),
      owner: null,
      datanet: null,
      isPinned: false,
      modelDigest,
      digest,
      sizeBytes,
      source: { kind: 'folder', folder },
    })
  }
  for (let index = 0; index < options.adapters.length; index++) await restore(index)
  return {
    registry,
    stats,
    restore,
    /** Takes all adapters out of the engine. */
    async close() {
      const ids = registry.list().map(({ id }) => id)
      await Promise.all(ids.map((id) => registry.unregister(id)))
    },
  }
}
