import { readdir } from 'node:fs/promises'
import { isDeepStrictEqual } from 'node:util'
import { BackendError } from '../errors.ts'
import { describeThrown, type Log } from '../log.ts'
import type { AdapterRegistration, RegistrationFields } from './adapter-folder.ts'
import type { AdapterRegistry } from './adapter-registry.ts'
import type { AdapterRecord } from './adapter-store.ts'

interface StartupOptions {
  readonly adapters: AdapterRegistry
  /** What registering a folder of the root means; throws `adapter_rejected`. */
  readonly planAdapter: (path: string, fields: RegistrationFields) => Promise<AdapterRegistration>
  readonly log: Log
}

/** Folders that are read and checked at once. */
const CONCURRENCY = 4

/** Takes over the registrations of the store. One that is rejected is logged and kept, and serves nothing. */
export async function restoreAdapters(
  records: readonly AdapterRecord[],
  { adapters, planAdapter, log }: StartupOptions,
): Promise<void> {
  for (const record of records) {
    const { id, owner, datanet, isPinned: pinned, source } = record
    await logRejection(log, id, async () => {
      if (source.kind !== 'folder') return adapters.restore(record)
      // The operator's files may have changed since.
      const fields = { id, pinned, owner: owner ?? undefined, datanet: datanet ?? undefined }
      await adapters.register(await planAdapter(source.folder, fields), { isKept: true })
    })
  }
}

/** Registers every folder of the root, by name. One that is rejected is logged, and the others serve. */
export async function registerStartupAdapters(
  rootDir: string,
  { adapters, planAdapter, log }: StartupOptions,
): Promise<void> {
  const entries = await readdir(rootDir, { withFileTypes: true })
  const names = entries.filter((entry) => !entry.isFile()).map(({ name }) => name)
  const running = new Set<Promise<void>>()
  for (const name of names.sort()) {
    await logRejection(log, name, async () => {
      const registration = await planAdapter(name, {})
      const known = adapters.find(registration.id)
      if (known) {
        if (isDeepStrictEqual(known.version?.source, registration.source)) return
        const reason = `Another adapter has the id ${registration.id}.`
        log('warn', 'adapter_skipped', { adapter: name, reason })
        return
      }
      const check = logRejection(log, name, () =>
        adapters.register(registration, { isKept: false }),
      ).finally(() => running.delete(check))
      running.add(check)
    })
    if (running.size >= CONCURRENCY) await Promise.race(running)
  }
  await Promise.all(running)
}

async function logRejection(log: Log, adapter: string, run: () => Promise<unknown>) {
  try {
    await run()
  } catch (error) {
    const isKnown = error instanceof BackendError && error.code !== 'internal_error'
    log('warn', 'adapter_rejected', {
      adapter,
      ...(isKnown ? { reason: error.message } : describeThrown(error)),
    })
  }
}
