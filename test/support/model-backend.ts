import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { startServer } from '../../gpu-backend/api/server.ts'
import { readConfig } from '../../gpu-backend/config.ts'
import { createServices, openStores } from '../../gpu-backend/create-services.ts'
import { DEFAULT_ENGINE_LIMITS } from '../../gpu-backend/engine/scheduler.ts'
import { startThreadEngine } from '../../gpu-backend/thread-engine.ts'
import { type TinyModelOptions, writeTinyFolder, writeTinyGguf } from './tiny-model.ts'

export interface ModelBackend {
  readonly url: string
  /** Why requests failed inside the engine. */
  readonly faults: readonly string[]
  readonly close: () => Promise<void>
}

/** The whole backend in this process, with a tiny random model in the real engine. */
export async function startModelBackend(
  options: TinyModelOptions & {
    /** Default GGUF. */
    readonly format?: 'gguf' | 'folder'
    /** More variables of the backend. */
    readonly env?: Readonly<Record<string, string>>
  },
): Promise<ModelBackend> {
  const folder = mkdtempSync(join(tmpdir(), 'tallygate-backend-'))
  const modelPath = join(folder, options.format === 'folder' ? 'tiny' : 'tiny.gguf')
  const write = options.format === 'folder' ? writeTinyFolder : writeTinyGguf
  write(modelPath, options)
  const faults: string[] = []
  const engine = await startThreadEngine(
    {
      modelPath,
      precision: 'int8',
      runner: { executionProvider: 'cpu', threadCount: 1, kvBudgetTokens: 16_384 },
      limits: DEFAULT_ENGINE_LIMITS,
      prefixSharing: 'tenant',
    },
    ({ detail }) => faults.push(detail),
  )
  const shutdown = new AbortController()
  const ADAPTER_STORE_DIR = join(folder, 'store')
  const config = readConfig({ MODEL: modelPath, ADAPTER_STORE_DIR, ...options.env })
  const services = createServices(config, {
    engine,
    ...(await openStores(config)),
    log: () => undefined,
    shutdownSignal: shutdown.signal,
  })
  const server = await startServer(services, { host: '127.0.0.1', port: 0 })
  return {
    url: server.url,
    faults,
    close: async () => {
      shutdown.abort()
      await server.close(shutdown.signal)
      await engine.close()
      rmSync(folder, { recursive: true })
    },
  }
}
