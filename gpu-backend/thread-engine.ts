import { SHARE_ENV, Worker } from 'node:worker_threads'
import type { EngineHandle } from './engine-handle.ts'
import type {
  EngineFault,
  EngineModel,
  EngineThreadOptions,
  StartReport,
} from './engine-messages.ts'
import { createPortEngine } from './port-engine.ts'

export interface ThreadEngine extends EngineHandle {
  readonly model: EngineModel
  /** Resolves when the thread has ended and with it every request: null after `close`, else why. */
  readonly closed: Promise<Error | null>
}

/**
 * Starts the engine in a thread of its own and resolves when the model is loaded. Rejects with an
 * error whose message names the file, field or provider at fault. `onFault` is told, for the log,
 * why requests ended with `internal_error`.
 */
export async function startThreadEngine(
  options: EngineThreadOptions,
  onFault: (fault: EngineFault) => void,
): Promise<ThreadEngine> {
  const worker = new Worker(new URL('./engine-thread.ts', import.meta.url), {
    name: 'engine',
    // What compute/session.ts tells ONNX Runtime there must reach the process.
    env: SHARE_ENV,
    workerData: options,
  })
  const model = await awaitStart(worker)
  const engine = createPortEngine(worker, onFault)
  let isClosing = false
  let crash: Error | null = null
  worker.on('error', (error) => {
    crash = error instanceof Error ? error : new Error(String(error))
  })
  const closed = new Promise<Error | null>((resolve) => {
    worker.on('exit', (code) => {
      if (!isClosing) crash ??= new Error(`The engine thread ended with code ${code}.`)
      engine.fail(crash ?? new Error('The engine is closed.'))
      resolve(crash)
    })
  })
  return {
    ...engine,
    model,
    closed,
    async close() {
      isClosing = true
      await engine.close().catch(() => undefined) // it may be gone before it answers: `closed` says so
      await closed
    },
  }
}

function awaitStart(worker: Worker): Promise<EngineModel> {
  return new Promise((resolve, reject) => {
    worker.once('message', (report: StartReport) => {
      if (report.kind === 'ready') resolve(report.model)
      else reject(new Error(report.message, { cause: report.detail }))
    })
    worker.once('error', (error) => {
      reject(new Error('The engine thread failed to load.', { cause: error }))
    })
    worker.once('exit', (code) => {
      reject(new Error(`The engine thread ended with code ${code} before it was ready.`))
    })
  })
}
