import { type ChildProcess, spawn } from 'node:child_process'

/**
 * Ends a process when this one is gone, even when that was killed outright: a shell waits for the
 * end of a pipe that only this process holds. Kill the guard once the process has ended.
 */
export function guardProcess(pid: number): ChildProcess {
  const guard = spawn('sh', ['-c', `cat >/dev/null; kill -TERM ${pid}`], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  guard.unref()
  return guard
}
