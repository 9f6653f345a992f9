import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { claimPort } from '../../scripts/free-port.ts'
import { BENCH_CACHE_FOLDER } from '../cache-folder.ts'
import { type LineProcess, spawnLines } from './spawn-lines.ts'

const PACKAGE = '@portkey-ai/gateway'
export const PORTKEY_VERSION = '1.15.2'
/** It accepts any 1.x of its HTTP server; with 1.19 every stream of it ends in a 500. */
const MANIFEST = {
  private: true,
  dependencies: { [PACKAGE]: PORTKEY_VERSION },
  overrides: { '@hono/node-server': '1.13.8' },
}

const folder = join(BENCH_CACHE_FOLDER, `portkey-${PORTKEY_VERSION}`)
const entry = join(folder, 'node_modules', PACKAGE, 'build/start-server.js')

/** Installs the peer beside the project, once a machine. Throws an error that says what to do where it cannot be had. */
async function ensurePortkey(): Promise<void> {
  if (existsSync(entry)) return
  const partial = `${folder}.${process.pid}.partial`
  await mkdir(partial, { recursive: true })
  await writeFile(join(partial, 'package.json'), JSON.stringify(MANIFEST))
  const flags = ['--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund']
  try {
    await promisify(execFile)('npm', ['install', ...flags], { cwd: partial })
    await rename(partial, folder)
  } catch (error) {
    await rm(partial, { recursive: true, force: true })
    throw new Error(
      `The bench's peer ${PACKAGE}@${PORTKEY_VERSION} could not be installed. Put it into ${folder} by hand, or run the bench where npm reaches a registry.`,
      { cause: error },
    )
  }
}

/** Starts the peer; it is told upstream and provider by each request's headers. */
export async function startPortkey(): Promise<{ process: LineProcess; url: string }> {
  await ensurePortkey()
  const port = await claimPort(0)
  const env = { NODE_ENV: 'production', TRUSTED_CUSTOM_HOSTS: '127.0.0.1,localhost' }
  const child = spawnLines([entry, '--headless', `--port=${port}`], { env, keptLineCount: 1 })
  await child.nextLine()
  return { process: child, url: `http://127.0.0.1:${port}` }
}
