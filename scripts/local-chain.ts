import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { guardProcess } from './process-guard.ts'

/** Chain id of the local chain: OpenLedger's, whose stand-in it is. */
export const LOCAL_CHAIN_ID = 1612

export interface LocalChainOptions {
  /** TCP port on 127.0.0.1; 0 takes a free one. */
  readonly port: number
  /** Where the chain's state lasts between runs; created when missing. */
  readonly stateDir: string
}

export interface LocalChain {
  readonly rpcUrl: string
  readonly pid: number
  /** Writes the state and ends the process; safe to call twice. */
  readonly close: () => Promise<void>
}

/**
 * Runs anvil as an OP Stack chain that mines each transaction at once. It ends with this process,
 * even when that is killed outright. What was mined in the last second before a power loss may be
 * missing after it. Throws anvil's own sentence when it cannot start, the port's number included.
 */
export async function startLocalChain(options: LocalChainOptions): Promise<LocalChain> {
  await mkdir(options.stateDir, { recursive: true })
  const anvil = spawn(
    findAnvil(),
    [
      ...['--network', 'optimism', '--chain-id', String(LOCAL_CHAIN_ID)],
      ...['--host', '127.0.0.1', '--port', String(options.port)],
      ...['--state', join(options.stateDir, 'anvil.json'), '--state-interval', '1'],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  )
  const rpcUrl = await waitUntilListening(anvil, options.port)
  const { pid } = anvil
  if (pid === undefined) throw new Error('anvil has no process id.')
  const guard = guardProcess(pid)
  return {
    rpcUrl,
    pid,
    close: async () => {
      if (anvil.exitCode === null && anvil.signalCode === null) {
        const exit = once(anvil, 'exit')
        anvil.kill('SIGTERM')
        await exit
      }
      guard.kill('SIGKILL')
    },
  }
}

/** The platform's binary; the package's own launcher would stand between us and its process. */
function findAnvil(): string {
  const { platform } = process
  const architecture = process.arch === 'x64' ? 'amd64' : process.arch
  const extension = platform === 'win32' ? '.exe' : ''
  const launcher = createRequire(import.meta.url).resolve('@foundry-rs/anvil/package.json')
  const name = `@foundry-rs/anvil-${platform}-${architecture}/bin/anvil${extension}`
  try {
    return createRequire(launcher).resolve(name)
  } catch (error) {
    throw new Error(`anvil has no binary for ${platform}-${architecture}.`, { cause: error })
  }
}

async function waitUntilListening(anvil: ChildProcess, port: number): Promise<string> {
  const { stdout, stderr } = anvil
  if (stdout === null || stderr === null) throw new Error('anvil has no output.')
  const errors: string[] = []
  createInterface({ input: stderr }).on('line', (line) => errors.push(line))
  return new Promise((resolve, reject) => {
    createInterface({ input: stdout }).on('line', (line) => {
      const address = /^Listening on (\S+)$/.exec(line)?.[1]
      if (address !== undefined) resolve(`http://${address}`)
    })
    anvil.once('error', reject)
    anvil.once('close', (code) =>
      reject(
        new Error(
          `The local chain did not start on port ${port}: ${errors.join(' ') || `exit code ${code}`}`,
        ),
      ),
    )
  })
}
