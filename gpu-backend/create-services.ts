import { randomBytes, randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { readAdapterFile } from './adapters/adapter-file.ts'
import { planRegistration } from './adapters/adapter-folder.ts'
import { createAdapterRegistry } from './adapters/adapter-registry.ts'
import { createCounter } from './api/counter.ts'
import { createReportStore } from './api/report-store.ts'
import { createServedModel } from './api/served-model.ts'
import type { Services } from './api/services.ts'
import type { Attributor } from './attribution/attribution.ts'
import { createAttributor } from './attribution/create-attributor.ts'
import { readDatanet } from './attribution/datanet.ts'
import type { BackendConfig } from './config.ts'
import { BackendError } from './errors.ts'
import type { Log } from './log.ts'
import type { ThreadEngine } from './thread-engine.ts'

/** Ended reports that are kept: ten minutes at 80 requests a second. */
const MAX_REPORT_COUNT = 50_000

interface Running {
  readonly engine: ThreadEngine
  readonly log: Log
  readonly shutdownSignal: AbortSignal
}

/** Everything that the API needs, over a running engine. */
export function createServices(
  config: BackendConfig,
  { engine, log, shutdownSignal }: Running,
): Services {
  const now = Date.now
  const model = createServedModel(engine.model, config.MAX_BATCH)
  const { ADAPTERS_DIR: adaptersDir, MAX_ADAPTER_BYTES: maxFileBytes } = config
  const requireAdaptersDir = () => {
    if (adaptersDir !== undefined) return adaptersDir
    throw new BackendError('adapter_rejected', 'This server has no folder to load adapters from.', {
      param: 'path',
    })
  }
  return {
    engine,
    model,
    adapters: createAdapterRegistry({
      engine,
      log,
      now,
      readWeights: (folder) =>
        readAdapterFile(folder, engine.model.config, {
          rootDir: requireAdaptersDir(),
          maxFileBytes,
        }),
      openAttributor: (datanet) => openAttributor(datanet, config.DATANETS_DIR),
    }),
    planAdapter: async (path, fields) =>
      planRegistration(path, fields, { rootDir: requireAdaptersDir(), baseId: model.id }),
    reports: createReportStore({ now, maxEndedCount: MAX_REPORT_COUNT }),
    counters: { ends: createCounter(), errors: createCounter() },
    log,
    maxBodyBytes: config.MAX_BODY_BYTES,
    bearerToken: config.BACKEND_TOKEN ?? null,
    shutdownSignal,
    startedAtMs: now(),
    now,
    createSeed: () => randomBytes(8).readBigUInt64LE(),
    createRequestId: () => `req_${randomUUID().replaceAll('-', '')}`,
  }
}

async function openAttributor(
  datanet: string,
  datanetsDir: string | undefined,
): Promise<Attributor> {
  if (datanetsDir !== undefined)
    return createAttributor(await readDatanet(join(datanetsDir, datanet)))
  throw new BackendError(
    'adapter_rejected',
    'This server has no datanets, and the adapter names one.',
    {
      param: 'datanet',
    },
  )
}
