import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** The llama.cpp build that is measured against: the native package of `node-llama-cpp`, nothing else of it. */
const VERSION = '3.22.1'

const PACKAGES: Readonly<Record<string, string>> = {
  'linux-x64': 'linux-x64',
  'linux-arm64': 'linux-arm64',
  'darwin-x64': 'mac-x64',
  'darwin-arm64': 'mac-arm64-metal',
  'win32-x64': 'win-x64',
}

export interface InstalledPeer {
  /** Folder of `llama-addon.node` and its libraries, one a CPU family. */
  readonly binDir: string
  readonly name: string
}

/** Gets the pinned binary into the cache with npm, once; nothing is compiled. Rejects with what to do. */
export async function installPeer(cacheDir: string): Promise<InstalledPeer> {
  const platform = `${process.platform}-${process.arch}`
  const suffix = PACKAGES[platform]
  if (suffix === undefined) throw new Error(`There is no build of llama.cpp for ${platform}.`)
  const name = `@node-llama-cpp/${suffix}`
  const prefix = join(cacheDir, `llama-cpp-${VERSION}`)
  const binDir = join(prefix, 'node_modules', name, 'bins', suffix)
  if (!existsSync(join(binDir, 'llama-addon.node'))) {
    await mkdir(prefix, { recursive: true })
    const options = ['--no-save', '--no-audit', '--no-fund', '--ignore-scripts']
    const args = ['install', ...options, '--prefix', prefix, `${name}@${VERSION}`]
    await promisify(execFile)('npm', args).catch((cause: unknown) => {
      const command = `npm ${args.join(' ')}`
      throw new Error(
        `The peer, llama.cpp, could not be installed. Run this and see why:\n${command}`,
        { cause },
      )
    })
  }
  return { binDir, name: `${name}@${VERSION}` }
}
