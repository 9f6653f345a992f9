import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

/** Of a whole backend, after a collection of garbage in both of its threads. */
export interface MemorySample {
  /** Before the collection. */
  readonly busyRssBytes: number
  readonly rssBytes: number
  readonly mainHeapBytes: number
  readonly engineHeapBytes: number
}

export interface BackendProcess {
  readonly url: string
  readonly pid: number
  /** What the base model is called. */
  readonly model: string
  /** Lines of the log that are errors, and lines that are no log. */
  readonly complaints: readonly string[]
  readonly measureMemory: () => Promise<MemorySample>
  /** Resolves with the exit code of an orderly stop. */
  readonly stop: () => Promise<number | null>
}

const INDEX = join(import.meta.dirname, '../../../gpu-backend/index.ts')
const PROBE = new URL('memory-probe.ts', import.meta.url).href

/** Runs `gpu-backend/index.ts` as an operator does, with nothing of this process's environment but PATH. */
export async function startBackendProcess(
  env: Readonly<Record<string, string>>,
): Promise<BackendProcess> {
  const child = spawn(process.execPath, ['--expose-gc', '--import', PROBE, INDEX], {
    env: { PATH: process.env.PATH, HOST: '127.0.0.1', PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  const { stdout, stderr } = child
  if (!stdout || !stderr) throw new Error('a backend without its pipes')
  const exited = once(child, 'exit').then(([code]) => code as number | null)
  const kill = () => child.kill('SIGKILL')
  process.once('exit', kill)
  const complaints: string[] = []
  createInterface({ input: stderr }).on('line', (line) => {
    if (!/^\{.*"level":"(info|warn)"/.test(line)) complaints.push(line)
  })
  const listening = await new Promise<string>((resolve, reject) => {
    createInterface({ input: stdout }).once('line', resolve)
    exited.then((code) => reject(new Error(`exit code ${code}: ${complaints.join('\n')}`)))
  })
  const { url, model } = JSON.parse(listening) as { url: string; model: string } // written by index.ts
  return {
    url,
    pid: child.pid ?? 0,
    model,
    complaints,
    measureMemory: async () => {
      child.send('measure')
      const [sample] = await once(child, 'message')
      return sample as MemorySample // written by memory-probe.ts
    },
    stop: async () => {
      child.kill('SIGTERM')
      process.off('exit', kill)
      return exited
    },
  }
}
