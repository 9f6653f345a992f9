import { mkdir, readFile, readlink, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

interface LockFile {
  readonly pid: number
  /** Processes that the holder started. */
  readonly children: readonly number[]
}

export interface StateLock {
  /** Writes down a child, so that the next start can end it if this process is killed outright. */
  readonly addChild: (pid: number) => Promise<void>
  readonly release: () => Promise<void>
}

/**
 * Makes this process the only one that works on a state folder. Throws when another live one holds
 * it. When the last holder was killed outright, ends the children that it left behind first, and
 * the processes that `orphansPath` lists, one id a line.
 */
export async function lockState(stateDir: string, orphansPath: string): Promise<StateLock> {
  await mkdir(stateDir, { recursive: true })
  const path = join(stateDir, 'lock.json')
  const old = await readLock(path)
  if (old !== null && isAlive(old.pid) && (await isOurs(old.pid))) {
    throw new Error(
      `${stateDir} is in use by process ${old.pid}. Stop it, or choose another folder with --state.`,
    )
  }
  const orphans = [...(old?.children ?? []), ...(await readPids(orphansPath))]
  await Promise.all(orphans.map(endOrphan))
  await rm(orphansPath, { force: true })
  const children: number[] = []
  const write = () => writeFile(path, JSON.stringify({ pid: process.pid, children }))
  await write()
  return {
    addChild: async (pid) => {
      children.push(pid)
      await write()
    },
    release: () => rm(path, { force: true }),
  }
}

async function readPids(path: string): Promise<number[]> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.split('\n').filter(Boolean).map(Number)
}

async function readLock(path: string): Promise<LockFile | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as LockFile // written by this file alone
  } catch {
    return null
  }
}

const ORPHAN_GRACE_MS = 5_000

/** Asks a process to end, and ends it when it has not after a while. */
async function endOrphan(pid: number): Promise<void> {
  if (!isAlive(pid) || !(await isOurs(pid))) return
  process.kill(pid, 'SIGTERM')
  const endMs = Date.now() + ORPHAN_GRACE_MS
  while (isAlive(pid) && Date.now() < endMs) await new Promise((resolve) => setTimeout(resolve, 50))
  if (isAlive(pid)) process.kill(pid, 'SIGKILL')
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Guards against a process id that the system has given to somebody else since. */
async function isOurs(pid: number): Promise<boolean> {
  try {
    return /node|workerd|anvil/.test(await readlink(`/proc/${pid}/exe`))
  } catch {
    return process.platform !== 'linux'
  }
}
