import { readdir } from 'node:fs/promises'
import { BackendError } from '../errors.ts'
import { describeThrown, type Log } from '../log.ts'
import type { AdapterRegistration, RegistrationFields } from './adapter-folder.ts'
import type { AdapterRegistry } from './adapter-registry.ts'

interface StartupOptions {
  readonly adapters: AdapterRegistry
  /** What registering a folder of the root means; throws `adapter_rejected`. */
  readonly planAdapter: (path: string, fields: RegistrationFields) => Promise<AdapterRegistration>
  readonly log: Log
}

/** Registers every folder of the root, by name. One that is rejected is logged, and the others load. */
export async function loadStartupAdapters(
  rootDir: string,
  { adapters, planAdapter, log }: StartupOptions,
): Promise<void> {
  const entries = await readdir(rootDir, { withFileTypes: true })
  const names = entries.filter((entry) => !entry.isFile()).map(({ name }) => name)
  for (const name of names.sort()) {
    try {
      const registration = await planAdapter(name, {})
      if (adapters.find(registration.id)) {
        const reason = `Another folder has the id ${registration.id}.`
        log('warn', 'adapter_skipped', { adapter: name, reason })
        continue
      }
      await adapters.register(registration)
    } catch (error) {
      const isKnown = error instanceof BackendError && error.code !== 'internal_error'
      log('warn', 'adapter_rejected', {
        adapter: name,
        ...(isKnown ? { reason: error.message } : describeThrown(error)),
      })
    }
  }
}
