import type { BackendConfig } from './config.ts'
import { DEFAULT_ENGINE_LIMITS } from './engine/scheduler.ts'
import type { EngineThreadOptions } from './engine-messages.ts'

/** What the engine thread is started with under this configuration. */
export function planEngine(config: BackendConfig): EngineThreadOptions {
  return {
    modelPath: config.MODEL,
    precision: config.PRECISION ?? (config.EXECUTION_PROVIDER === 'cpu' ? 'int8' : 'int4'),
    runner: {
      executionProvider: config.EXECUTION_PROVIDER,
      threadCount: config.THREADS,
      kvBudgetTokens: config.KV_TOKENS,
    },
    limits: {
      ...DEFAULT_ENGINE_LIMITS,
      maxRunningCount: config.MAX_BATCH,
      maxWaitingCount: config.MAX_QUEUE,
      maxWaitMs: config.MAX_WAIT_MS,
      promoteAfterMs: config.PROMOTE_AFTER_MS,
    },
    prefixSharing: config.PREFIX_SHARING,
  }
}
