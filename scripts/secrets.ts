import { randomBytes } from 'node:crypto'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** What a local installation makes once and keeps, readable by its owner alone. */
export interface Secrets {
  readonly keyChecksumSecret: string
  readonly adminKey: string
  readonly backendToken: string
  /** The API key of the first account; null until it is created. */
  readonly apiKey: string | null
}

const FILE_NAME = 'secrets.json'

/** The secrets of a state folder; made and written down at the first call. */
export async function readSecrets(stateDir: string): Promise<Secrets> {
  try {
    return JSON.parse(await readFile(join(stateDir, FILE_NAME), 'utf8')) as Secrets // written by this file alone
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
  }
  const secrets: Secrets = {
    keyChecksumSecret: randomBytes(32).toString('hex'),
    adminKey: `tgadmin_${randomBytes(24).toString('hex')}`,
    backendToken: randomBytes(24).toString('hex'),
    apiKey: null,
  }
  await writeSecrets(stateDir, secrets)
  return secrets
}

/** Replaces the file in one step, so that a crash leaves the old one or the new one. */
export async function writeSecrets(stateDir: string, secrets: Secrets): Promise<void> {
  const path = join(stateDir, FILE_NAME)
  await writeFile(`${path}.tmp`, JSON.stringify(secrets, null, 2), { mode: 0o600 })
  await rename(`${path}.tmp`, path)
}
