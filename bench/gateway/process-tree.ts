import { readdirSync, readFileSync } from 'node:fs'

/** Of Linux's `/proc`, whatever the kernel's own tick is. */
const TICKS_A_SECOND = 100

interface ProcessStat {
  readonly parentPid: number
  readonly cpuMs: number
}

/** CPU time of a process and all its living descendants so far, user and system, milliseconds. */
export function readTreeCpuMs(rootPid: number): number {
  const stats = new Map<number, ProcessStat>()
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) ? readStat(name) : null
    if (stat !== null) stats.set(Number(name), stat)
  }
  const isBelowRoot = (pid: number): boolean => {
    if (pid === rootPid) return true
    const stat = stats.get(pid)
    return stat !== undefined && isBelowRoot(stat.parentPid)
  }
  return [...stats].reduce((sum, [pid, { cpuMs }]) => sum + (isBelowRoot(pid) ? cpuMs : 0), 0)
}

/** Null for a process that has ended meanwhile. */
function readStat(pid: string): ProcessStat | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // After the command's name, which may hold anything: proc(5), fields 3 and on.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    const ticks = Number(fields[11]) + Number(fields[12])
    return { parentPid: Number(fields[1]), cpuMs: (ticks * 1_000) / TICKS_A_SECOND }
  } catch {
    return null
  }
}
