import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/** A Node process that is spoken to in lines. */
export interface LineProcess {
  readonly pid: number
  readonly write: (line: string) => void
  /** The next line of its output that was not taken yet. Throws when it has ended. */
  readonly nextLine: () => Promise<string>
  /** Asks it to end and waits until it has. */
  readonly close: () => Promise<void>
}

export interface SpawnOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Its output after that many lines is thrown away; absent: none is. */
  readonly keptLineCount?: number
}

/** Runs `node` with these arguments; what it writes to its error output is shown. */
export function spawnLines(args: readonly string[], options: SpawnOptions = {}): LineProcess {
  const child = spawn(process.execPath, args, {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: { ...process.env, ...options.env },
  })
  const { pid } = child
  if (pid === undefined) throw new Error(`${args[0]} did not start.`)
  const ended = once(child, 'exit')
  const lines = createInterface({ input: child.stdout })
  const kept: string[] = []
  let waiting: ((line: string | null) => void) | null = null
  let lineCount = 0
  lines.on('line', (line) => {
    lineCount += 1
    if (lineCount > (options.keptLineCount ?? Number.POSITIVE_INFINITY)) return
    if (waiting === null) kept.push(line)
    else waiting(line)
    waiting = null
  })
  lines.on('close', () => waiting?.(null))
  return {
    pid,
    write: (line) => void child.stdin.write(`${line}\n`),
    nextLine: async () => {
      const line =
        kept.shift() ??
        (await new Promise<string | null>((resolve) => {
          waiting = resolve
        }))
      if (line === null) throw new Error(`${args[0]} ended.`)
      return line
    },
    close: async () => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGTERM')
        await ended
      }
    },
  }
}
