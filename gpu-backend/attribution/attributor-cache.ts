import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Attributor } from './attribution.ts'
import { createAttributor } from './create-attributor.ts'
import { CONTRIBUTORS_FILE, DATANET_FILE, readDatanet } from './datanet.ts'

interface Entry {
  readonly fingerprint: string
  opened: Promise<Attributor> | WeakRef<Attributor>
}

/**
 * Opens datanets by folder: adapters of one datanet share its index, until one of its files changes.
 * An index goes with the last adapter that has it.
 */
export function createAttributorCache(): (folder: string) => Promise<Attributor> {
  const cached = new Map<string, Entry>()
  const open = async (folder: string) => createAttributor(await readDatanet(folder))
  return async (folder) => {
    const fingerprint = await fingerprintFiles(folder)
    const known = cached.get(folder)
    const held = known?.opened instanceof WeakRef ? known.opened.deref() : known?.opened
    if (held && known?.fingerprint === fingerprint) return held
    const opened = open(folder)
    const entry: Entry = { fingerprint, opened }
    cached.set(folder, entry)
    opened.then(
      (attributor) => {
        entry.opened = new WeakRef(attributor)
      },
      () => cached.delete(folder),
    )
    return opened
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
