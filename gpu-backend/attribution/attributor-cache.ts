import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Attributor } from './attribution.ts'
import { createAttributor } from './create-attributor.ts'
import { CONTRIBUTORS_FILE, DATANET_FILE, readDatanet } from './datanet.ts'

/** Opens datanets by folder: adapters of one datanet share its index, until one of its files changes. */
export function createAttributorCache(): (folder: string) => Promise<Attributor> {
  const cached = new Map<
    string,
    { readonly fingerprint: string; readonly opened: Promise<Attributor> }
  >()
  const open = async (folder: string) => createAttributor(await readDatanet(folder))
  return async (folder) => {
    const fingerprint = await fingerprintFiles(folder)
    const known = cached.get(folder)
    if (known?.fingerprint === fingerprint) return known.opened
    const entry = { fingerprint, opened: open(folder) }
    cached.set(folder, entry)
    entry.opened.catch(() => cached.delete(folder))
    return entry.opened
  }
}

async function fingerprintFiles(folder: string): Promise<string> {
  const stats = await Promise.all(
    [DATANET_FILE, CONTRIBUTORS_FILE].map((name) =>
      stat(join(folder, name), { bigint: true }).catch(() => null),
    ),
  )
  return stats.map((file) => `${file?.ino} ${file?.size} ${file?.mtimeNs}`).join()
}
