import { randomBytes, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { type AdapterStore, openAdapterStore } from './adapters/adapter-store.ts'
import { createAdapters } from './adapters/create-adapters.ts'
import { createCounter } from './api/counter.ts'
import { createQueuePositions } from './api/queue-position.ts'
import { createReportStore } from './api/report-store.ts'
import { createServedModel } from './api/served-model.ts'
import type { Services } from './api/services.ts'
import { type DatanetStore, openDatanetStore } from './attribution/datanet-store.ts'
import { createDatanetOpener } from './attribution/open-datanet.ts'
import type { BackendConfig } from './config.ts'
import type { Log } from './log.ts'
import type { ThreadEngine } from './thread-engine.ts'

/** Ended reports that are kept: ten minutes at 80 requests a second. */
const MAX_REPORT_COUNT = 50_000

interface Running {
  readonly engine: ThreadEngine
  /** Null: there is none. */
  readonly store: AdapterStore | null
  /** Null: there is none. */
  readonly datanets: DatanetStore | null
  readonly log: Log
  readonly shutdownSignal: AbortSignal
}

/** What is kept in ADAPTER_STORE_DIR, where there is one. */
export async function openStores(
  config: BackendConfig,
): Promise<{ readonly store: AdapterStore | null; readonly datanets: DatanetStore | null }> {
  const dir = config.ADAPTER_STORE_DIR
  if (dir === undefined) return { store: null, datanets: null }
  return {
    store: await openAdapterStore({ dir, budgetBytes: config.ADAPTER_DISK_BYTES }),
    datanets: await openDatanetStore({
      dir: join(dir, 'datanets'),
      budgetBytes: config.DATANET_DISK_BYTES,
      maxTenantCount: config.MAX_TENANT_DATANETS,
      now: Date.now,
    }),
  }
}

/** Everything that the API needs, over a running engine. */
export function createServices(
  config: BackendConfig,
  { engine, store, datanets, log, shutdownSignal }: Running,
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
    openAttributor: createDatanetOpener({ rootDir: config.DATANETS_DIR ?? null, store: datanets }),
    log,
    now,
  })
  return {
    engine,
    model,
    adapters: adapters.registry,
    adapterIntake: adapters.intake,
    adapterStats: adapters.stats,
    datanets,
    findQueuePosition: createQueuePositions(engine, now),
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
