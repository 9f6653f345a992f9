import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openAdapterStore } from '../../gpu-backend/adapters/adapter-store.ts'
import { createAdapters } from '../../gpu-backend/adapters/create-adapters.ts'
import { restoreAdapters } from '../../gpu-backend/adapters/startup-adapters.ts'
import { createCounter } from '../../gpu-backend/api/counter.ts'
import { createQueuePositions } from '../../gpu-backend/api/queue-position.ts'
import { createReportStore } from '../../gpu-backend/api/report-store.ts'
import type { ServedModel } from '../../gpu-backend/api/served-model.ts'
import { startServer } from '../../gpu-backend/api/server.ts'
import type { Services } from '../../gpu-backend/api/services.ts'
import type { Attributor } from '../../gpu-backend/attribution/attribution.ts'
import { openDatanetStore } from '../../gpu-backend/attribution/datanet-store.ts'
import { createDatanetOpener } from '../../gpu-backend/attribution/open-datanet.ts'
import type { EngineHandle } from '../../gpu-backend/engine-handle.ts'
import type { ModelConfig } from '../../gpu-backend/model/model-source.ts'
import { HERMES_FORM, type ToolForm } from '../../gpu-backend/text/tool-form.ts'
import { createScriptedEngine, type EngineScript, type ScriptedEngine } from './scripted-engine.ts'

export const TINY_CONFIG: ModelConfig = {
  layerCount: 2,
  hiddenSize: 16,
  headCount: 4,
  kvHeadCount: 2,
  headSize: 4,
  ffnSize: 32,
  vocabSize: 256,
  contextLength: 512,
  ropeTheta: 10_000,
  ropeScaling: { kind: 'none' },
  normEpsilon: 1e-5,
  hasQkvBias: false,
  hasQkNorm: false,
}

/** One token a byte; the template writes `role: content` lines. */
const BYTE_MODEL: ServedModel = {
  toolForm: HERMES_FORM,
  id: 'tiny',
  digest: `0x${'ab'.repeat(32)}`,
  contextTokens: 512,
  vocabSize: 256,
  hiddenSize: 16,
  stopTokenIds: [0],
  maxBatchSize: 32,
  encodeText: (text) => [...Buffer.from(text)],
  tokenBytes: (token) => Uint8Array.of(token),
  decode: (tokens) => Buffer.from(tokens).toString(),
  encodeChat: (messages) => {
    const text = messages.map(({ role, content }) => `${role}: ${content}\n`).join('')
    return { text, tokens: [...Buffer.from(text)] }
  },
}

export interface TestBackend {
  readonly url: string
  readonly engine: ScriptedEngine
  /** The adapters directory. */
  readonly adaptersDir: string
  /** Lines of the log. */
  readonly logLines: readonly string[]
  readonly clock: { nowMs: number }
  readonly abort: () => void
  readonly close: () => Promise<void>
}

export interface TestBackendOptions extends EngineScript {
  /** Default: that of Hermes. */
  readonly toolForm?: ToolForm
  /** Instead of a scripted one, which then stays idle. */
  readonly engine?: EngineHandle
  readonly bearerToken?: string
  readonly maxBodyBytes?: number
  readonly maxChoiceCount?: number
  readonly attributors?: Readonly<Record<string, Attributor>>
  readonly datanetsDir?: string
  /** Absent: no store. */
  readonly storeDir?: string
  readonly diskBudgetBytes?: number
  readonly ramBudgetBytes?: number
  readonly maxAdapterCount?: number
  readonly maxTenantAdapterCount?: number
  readonly hubUrl?: string
  /** Taken over from another backend; default: a new folder. */
  readonly adaptersDir?: string
}

/** The real HTTP side over a scripted engine, on a free port. */
export async function startTestBackend(options: TestBackendOptions = {}): Promise<TestBackend> {
  const engine = createScriptedEngine(options)
  const served = options.engine ?? engine
  const adaptersDir = options.adaptersDir ?? (await mkdtemp(join(tmpdir(), 'adapters-')))
  const clock = { nowMs: 1_700_000_000_000 }
  const now = () => clock.nowMs
  const logLines: string[] = []
  const log: Services['log'] = (level, event, fields) =>
    logLines.push(JSON.stringify({ level, event, ...fields }))
  const shutdown = new AbortController()
  let idCount = 0
  const store =
    options.storeDir === undefined
      ? null
      : await openAdapterStore({
          dir: options.storeDir,
          budgetBytes: options.diskBudgetBytes ?? 1_000_000,
        })
  const datanets =
    options.storeDir === undefined
      ? null
      : await openDatanetStore({
          dir: join(options.storeDir, 'datanets'),
          budgetBytes: 20_000,
          maxTenantCount: 3,
          now,
        })
  const openDatanet = createDatanetOpener({ rootDir: options.datanetsDir ?? null, store: datanets })
  const adapters = createAdapters({
    engine,
    model: { id: BYTE_MODEL.id, digest: BYTE_MODEL.digest, config: TINY_CONFIG },
    rootDir: adaptersDir,
    store,
    hub: { hubUrl: options.hubUrl ?? 'http://127.0.0.1:9', answerTimeoutMs: 2000 },
    maxFileBytes: 1_000_000,
    ramBudgetBytes: options.ramBudgetBytes ?? 1_000_000,
    maxWaitingCount: 100,
    maxCount: options.maxAdapterCount ?? 10_000,
    maxTenantCount: options.maxTenantAdapterCount ?? 100,
    openAttributor: async (datanet, tenant) =>
      options.attributors?.[datanet] ?? openDatanet(datanet, tenant),
    log,
    now,
  })
  const services: Services = {
    engine: served,
    model: { ...BYTE_MODEL, toolForm: options.toolForm ?? HERMES_FORM },
    adapters: adapters.registry,
    adapterIntake: adapters.intake,
    adapterStats: adapters.stats,
    datanets,
    findQueuePosition: createQueuePositions(served, Date.now),
    reports: createReportStore({ now, maxEndedCount: 100 }),
    counters: { ends: createCounter(), errors: createCounter() },
    log,
    maxChoiceCount: options.maxChoiceCount ?? 256,
    maxBodyBytes: options.maxBodyBytes ?? 1_000_000,
    bearerToken: options.bearerToken ?? null,
    shutdownSignal: shutdown.signal,
    startedAtMs: now(),
    now,
    createSeed: () => 42n,
    createRequestId: () => {
      idCount += 1
      return `req_made${idCount}`
    },
  }
  const planAdapter = adapters.intake.planFolder
  await restoreAdapters(store?.records ?? [], { adapters: adapters.registry, planAdapter, log })
  const server = await startServer(services, { host: '127.0.0.1', port: 0 })
  return {
    url: server.url,
    engine,
    adaptersDir,
    logLines,
    clock,
    abort: () => shutdown.abort(),
    close: async () => {
      shutdown.abort()
      await server.close(shutdown.signal)
      if (options.adaptersDir === undefined) await rm(adaptersDir, { recursive: true })
    },
  }
}
