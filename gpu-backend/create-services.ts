import { randomBytes, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import type { AdapterStore } from './adapters/adapter-store.ts'
import { createAdapters } from './adapters/create-adapters.ts'
import { createCounter } from './api/counter.ts'
import { createReportStore } from './api/report-store.ts'
import { createServedModel } from './api/served-model.ts'
import type { Services } from './api/services.ts'
import type { Attributor } from './attribution/attribution.ts'
import { createAttributorCache } from './attribution/attributor-cache.ts'
import type { BackendConfig } from './config.ts'
import { BackendError } from './errors.ts'
import type { Log } from './log.ts'
import type { ThreadEngine } from './thread-engine.ts'

/** Ended reports that are kept: ten minutes at 80 requests a second. */
const MAX_REPORT_COUNT = 50_000

interface Running {
  readonly engine: ThreadEngine
  /** Null: there is none. */
  readonly store: AdapterStore | null
  readonly log: Log
  readonly shutdownSignal: AbortSignal
}

/** Everything that the API needs, over a running engine. */
export function createServices(
  config: BackendConfig,
  { engine, store, log, shutdownSignal }: Running,
): Services {
  const now = Date.now
  const model = createServedModel(engine.model, config.MAX_BATCH)
  const adapters = createAdapters({
    engine,
    model: { id: model.id, digest: model.digest, config: engine.model.config },
    rootDir: config.ADAPTERS_DIR ?? null,
    store,
    hub: { hubUrl: config.HF_ENDPOINT },
    maxFileBytes: config.MAX_ADAPTER_BYTES,
    ramBudgetBytes: config.ADAPTER_RAM_BYTES,
    maxWaitingCount: config.MAX_QUEUE,
    maxCount: config.MAX_ADAPTERS,
    maxTenantCount: config.MAX_TENANT_ADAPTERS,
    openAttributor: createDatanetOpener(config.DATANETS_DIR),
    log,
    now,
  })
  return {
    engine,
    model,
    adapters: adapters.registry,
    adapterIntake: adapters.intake,
    adapterStats: adapters.stats,
    reports: createReportStore({ now, maxEndedCount: MAX_REPORT_COUNT }),
    counters: { ends: createCounter(), errors: createCounter() },
    log,
    maxChoiceCount: config.MAX_QUEUE,
    maxBodyBytes: config.MAX_BODY_BYTES,
    bearerToken: config.BACKEND_TOKEN ?? null,
    shutdownSignal,
    startedAtMs: now(),
    now,
    createSeed: () => randomBytes(8).readBigUInt64LE(),
    createRequestId: () => `req_${randomUUID().replaceAll('-', '')}`,
  }
}

function createDatanetOpener(datanetsDir: string | undefined) {
  const openFolder = createAttributorCache()
  return async (datanet: string): Promise<Attributor> => {
    if (datanetsDir !== undefined) return openFolder(join(datanetsDir, datanet))
    throw new BackendError(
      'adapter_rejected',
      'This server has no datanets, and the adapter names one.',
      { param: 'datanet' },
    )
  }
}
