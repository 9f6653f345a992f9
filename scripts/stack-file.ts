import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

/** Where a running installation can be asked for what a receipt names; no secret is in it. */
export interface StackPlaces {
  readonly rpcUrl: string
  readonly daUrl: string
  /** Batch payloads under their keccak256. */
  readonly archiveUrl: string
}

const FILE_NAME = 'stack.json'

/** Writes the places down for as long as the installation runs. */
export async function writeStackFile(stateDir: string, places: StackPlaces): Promise<void> {
  await writeFile(join(stateDir, FILE_NAME), JSON.stringify(places, null, 2))
}

export async function removeStackFile(stateDir: string): Promise<void> {
  await rm(join(stateDir, FILE_NAME), { force: true })
}

/** Null when nothing runs on the state folder. */
export async function readStackFile(stateDir: string): Promise<StackPlaces | null> {
  try {
    return JSON.parse(await readFile(join(stateDir, FILE_NAME), 'utf8')) as StackPlaces // written by this file alone
  } catch {
    return null
  }
}
