import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readAdapterFile } from '../../gpu-backend/adapters/adapter-file.ts'
import { planRegistration } from '../../gpu-backend/adapters/adapter-folder.ts'
import { createAdapterRegistry } from '../../gpu-backend/adapters/adapter-registry.ts'
import { createCounter } from '../../gpu-backend/api/counter.ts'
import { createReportStore } from '../../gpu-backend/api/report-store.ts'
import type { ServedModel } from '../../gpu-backend/api/served-model.ts'
import { startServer } from '../../gpu-backend/api/server.ts'
import type { Services } from '../../gpu-backend/api/services.ts'
import type { Attributor } from '../../gpu-backend/attribution/attribution.ts'
import { BackendError } from '../../gpu-backend/errors.ts'
import type { ModelConfig } from '../../gpu-backend/model/model-source.ts'
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
  normEpsilon: 1e-5,
}

/** One token a byte; the template writes `role: content` lines. */
const BYTE_MODEL: ServedModel = {
  id: 'tiny',
  digest: `0x${'ab'.repeat(32)}`,
  contextTokens: 512,
  vocabSize: 256,
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
  readonly bearerToken?: string
  readonly maxBodyBytes?: number
  readonly attributors?: Readonly<Record<string, Attributor>>
}

/** The real HTTP side over a scripted engine, on a free port. */
export async function startTestBackend(options: TestBackendOptions = {}): Promise<TestBackend> {
  const engine = createScriptedEngine(options)
  const adaptersDir = await mkdtemp(join(tmpdir(), 'adapters-'))
  const clock = { nowMs: 1_700_000_000_000 }
  const now = () => clock.nowMs
  const logLines: string[] = []
  const log: Services['log'] = (level, event, fields) =>
    logLines.push(JSON.stringify({ level, event, ...fields }))
  const shutdown = new AbortController()
  let idCount = 0
  const services: Services = {
    engine,
    model: BYTE_MODEL,
    adapters: createAdapterRegistry({
      engine,
      log,
      now,
      readWeights: (folder) =>
        readAdapterFile(folder, TINY_CONFIG, { rootDir: adaptersDir, maxFileBytes: 1_000_000 }),
      openAttributor: async (datanet) => {
        const attributor = options.attributors?.[datanet]
        if (attributor) return attributor
        throw new BackendError('adapter_rejected', 'There is no such datanet.', {
          param: 'datanet',
        })
      },
    }),
    planAdapter: (path, fields) =>
      planRegistration(path, fields, { rootDir: adaptersDir, baseId: BYTE_MODEL.id }),
    reports: createReportStore({ now, maxEndedCount: 100 }),
    counters: { ends: createCounter(), errors: createCounter() },
    log,
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
  const server = await startServer(services, { host: '127.0.0.1', port: 0 })
  return {
    url: server.url,
    engine,
    adaptersDir,
    logLines,
    clock,
    abort: () => shutdown.abort(),
    close: () => {
      shutdown.abort()
      return server.close(shutdown.signal)
    },
  }
}
