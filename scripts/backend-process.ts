import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { claimPort } from './free-port.ts'
import { guardProcess } from './process-guard.ts'

const ROOT = join(import.meta.dirname, '..')

/** A backend that stays down after this many starts in a row is given up. */
const MAX_RESTART_COUNT = 5

export interface BackendProcessOptions {
  readonly env: Readonly<Record<string, string>>
  readonly onSpawn: (pid: number) => Promise<void>
  /** Called when the backend died by itself, before it is started again. */
  readonly onDeath: (reason: string) => void
}

export interface BackendProcess {
  readonly url: string
  readonly stop: () => Promise<void>
}

/**
 * Runs gpu-backend as a child process on a port of its own and keeps it up: a backend that dies is
 * started again on the same port. Rejects with the backend's own sentence when the first start fails.
 */
export async function startBackendProcess(options: BackendProcessOptions): Promise<BackendProcess> {
  const port = await claimPort(0)
  let child = await startOnce(port, options)
  let stopping = false
  let restartCount = 0
  const watch = (watched: ChildProcess) =>
    watched.once('exit', (code, signal) => {
      if (stopping) return
      options.onDeath(signal ?? `exit code ${code}`)
      restartCount += 1
      if (restartCount > MAX_RESTART_COUNT) return
      startOnce(port, options).then(
        (next) => {
          child = next
          restartCount = 0
          if (stopping) next.kill('SIGTERM')
          else watch(next)
        },
        (error: Error) => options.onDeath(error.message),
      )
    })
  watch(child)
  return {
    url: `http://127.0.0.1:${port}`,
    stop: async () => {
      stopping = true
      if (child.exitCode !== null || child.signalCode !== null) return
      const exit = once(child, 'exit')
      child.kill('SIGTERM')
      await exit
    },
  }
}

async function startOnce(port: number, options: BackendProcessOptions): Promise<ChildProcess> {
  const child = spawn(process.execPath, [join(ROOT, 'gpu-backend/index.ts')], {
    env: { ...process.env, ...options.env, HOST: '127.0.0.1', PORT: String(port) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (child.pid !== undefined) {
    const guard = guardProcess(child.pid)
    child.once('exit', () => guard.kill('SIGKILL'))
    await options.onSpawn(child.pid)
  }
  const errors: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => {
    errors.push(line)
    if (errors.length > 20) errors.shift()
    if (line.includes('"level":"error"')) process.stderr.write(`${line}\n`)
  })
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      if (line.includes('"listening"')) resolve()
    })
    child.once('error', reject)
    child.once('exit', (code) =>
      reject(new Error(errors.join('\n') || `The backend ended with exit code ${code}.`)),
    )
  })
  return child
}
