import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Stack } from '../../scripts/start-stack.ts'

const START = join(import.meta.dirname, '../../scripts/start.ts')

/** `npm start -- --json …` as a process of its own, the way a user runs it. */
export interface StartedStack extends Stack {
  readonly child: ChildProcess
  /** Ctrl-C; resolves with the exit code. */
  readonly interrupt: () => Promise<number | null>
  /** SIGKILL of the start process alone: its children are left as a crash would leave them. */
  readonly kill: () => Promise<void>
}

/** Starts it and waits for its line; rejects with what it wrote to stderr when it ends before. */
export async function spawnStack(args: readonly string[]): Promise<StartedStack> {
  const child = spawn(process.execPath, [START, '--json', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const errors: string[] = []
  createInterface({ input: child.stderr }).on('line', (line) => errors.push(line))
  const line = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', resolve)
    child.once('exit', (code) => reject(new Error(`exit code ${code}: ${errors.join('\n')}`)))
  })
  return {
    ...(JSON.parse(line) as Stack), // printed by start.ts from a Stack
    child,
    interrupt: async () => {
      if (child.exitCode !== null) return child.exitCode
      child.kill('SIGINT')
      const [code] = await once(child, 'exit')
      return code
    },
    kill: async () => {
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}

/** Process ids below `pid`, at any depth. */
export function descendantsOf(pid: number): { pid: number; command: string }[] {
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
        const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
        const command = readFileSync(`/proc/${name}/cmdline`, 'utf8').replaceAll('\0', ' ')
        return [{ pid: Number(name), parent, command }]
      } catch {
        return []
      }
    })
  const found: { pid: number; command: string }[] = []
  const visit = (parent: number) => {
    for (const child of processes.filter((candidate) => candidate.parent === parent)) {
      found.push({ pid: child.pid, command: child.command })
      visit(child.pid)
    }
  }
  visit(pid)
  return found
}

export function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')
  } catch {
    return false
  }
}

/** Asks again and again until the answer satisfies; rejects with the last one after `timeoutMs`. */
export async function waitUntil<T>(
  ask: () => Promise<T>,
  satisfied: (answer: T) => boolean,
  timeoutMs = 60_000,
): Promise<T> {
  const end = Date.now() + timeoutMs
  for (;;) {
    const answer = await ask()
    if (satisfied(answer)) return answer
    if (Date.now() > end) throw new Error(`Still ${JSON.stringify(answer)} after ${timeoutMs} ms.`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
