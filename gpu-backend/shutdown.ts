import type { RunningServer } from './api/server.ts'
import type { EngineHandle } from './engine-handle.ts'
import { describeThrown, type Log } from './log.ts'

interface StopOptions {
  readonly server: RunningServer
  readonly engine: EngineHandle
  /** Aborted when the grace period is over: what still runs then ends with an error. */
  readonly shutdown: AbortController
  readonly graceMs: number
  readonly log: Log
}

/**
 * Stops once, however often it is called: no new connections, running requests end or are ended,
 * the engine closes, the process exits; with code 0 for a signal, 1 for an engine that stopped by itself.
 */
export function createStop(options: StopOptions): (reason: NodeJS.Signals | 'engine') => void {
  let isStopping = false
  return (reason) => {
    if (isStopping) return
    isStopping = true
    options.log(reason === 'engine' ? 'error' : 'info', 'stopping', { reason })
    stop(options).then(
      () => process.exit(reason === 'engine' ? 1 : 0),
      (error: unknown) => {
        options.log('error', 'stop_failed', describeThrown(error))
        process.exit(1)
      },
    )
  }
}

async function stop({ server, engine, shutdown, graceMs }: StopOptions): Promise<void> {
  const timer = setTimeout(() => shutdown.abort(), graceMs)
  await server.close(shutdown.signal)
  clearTimeout(timer)
  await engine.close()
}
