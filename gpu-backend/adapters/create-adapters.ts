import type { Digest } from '../../protocol/digest.ts'
import type { Attributor } from '../attribution/attribution.ts'
import type { EngineHandle } from '../engine-handle.ts'
import type { Log } from '../log.ts'
import type { ModelConfig } from '../model/model-source.ts'
import {
  type AdapterRegistration,
  planHubRegistration,
  planRegistration,
  planUpload,
  type RegistrationFields,
  rejectFile,
} from './adapter-folder.ts'
import { AdapterMerges } from './adapter-merges.ts'
import { type AdapterRegistry, createAdapterRegistry } from './adapter-registry.ts'
import { createAdapterResidency, type ResidencyStats } from './adapter-residency.ts'
import { createAdapterSources, requireStore } from './adapter-sources.ts'
import type { AdapterState } from './adapter-state.ts'
import type { AdapterStore } from './adapter-store.ts'
import { AdapterVersions } from './adapter-versions.ts'
import type { HubOptions } from './hub-client.ts'
import type { Tenant } from './owned-name.ts'

/** What a request to register means. Each throws `adapter_rejected`. */
export interface AdapterIntake {
  readonly planFolder: (path: string, fields: RegistrationFields) => Promise<AdapterRegistration>
  /** Files in a folder that `stage` gave. */
  readonly planUpload: (folder: string, fields: RegistrationFields) => Promise<AdapterRegistration>
  readonly planHub: (
    repo: { readonly repo: string; readonly revision: string },
    fields: RegistrationFields,
  ) => AdapterRegistration
  /** An empty folder for an upload, to be discarded in the end whatever became of it. */
  readonly stage: () => Promise<string>
  readonly discard: (folder: string) => Promise<void>
  /** Largest weights file that is taken. */
  readonly maxFileBytes: number
}

export interface AdapterStats extends ResidencyStats {
  readonly storedBytes: number
  /** How often adapters came into each state. */
  readonly stateCounts: Iterable<readonly [state: AdapterState, count: number]>
}

export interface Adapters {
  readonly registry: AdapterRegistry
  readonly intake: AdapterIntake
  readonly stats: () => AdapterStats
}

export interface AdaptersOptions {
  readonly engine: Pick<EngineHandle, 'loadAdapter' | 'unloadAdapter'>
  readonly model: {
    readonly id: string
    readonly digest: Digest
    readonly config: ModelConfig
  }
  /** Folder that local adapters must lie in; null: there are none. */
  readonly rootDir: string | null
  /** Null: neither uploads nor fetches, and a restart finds no registrations. */
  readonly store: AdapterStore | null
  readonly hub: Omit<HubOptions, 'maxFileBytes'>
  readonly maxFileBytes: number
  readonly ramBudgetBytes: number
  /** Requests that may wait for their adapters. */
  readonly maxWaitingCount: number
  readonly maxCount: number
  /** Registrations of one tenant. */
  readonly maxTenantCount: number
  /** Throws `adapter_rejected` where the tenant has no such datanet, or it is not valid. */
  readonly openAttributor: (datanet: string, tenant: Tenant) => Promise<Attributor>
  readonly log: Log
  readonly now: () => number
}

/** Adapters from registration to engine: remote → disk → memory, each within its byte budget. */
export function createAdapters(options: AdaptersOptions): Adapters {
  const { engine, model, store, maxFileBytes, ramBudgetBytes, log, now } = options
  const stateCounts = new Map<AdapterState, number>()
  const residency = createAdapterResidency({
    engine,
    budgetBytes: ramBudgetBytes,
    maxWaitingCount: options.maxWaitingCount,
    onChange: (digest) => {
      versions.noteChange(digest)
      merges.noteChange(digest)
    },
    log,
  })
  const sources = createAdapterSources({
    model: model.config,
    rootDir: options.rootDir,
    maxFileBytes,
    store,
    hub: { ...options.hub, maxFileBytes },
  })
  const versions: AdapterVersions = new AdapterVersions({
    residency,
    sources,
    ramBudgetBytes,
    countState: (state) => stateCounts.set(state, (stateCounts.get(state) ?? 0) + 1),
    onGone: (digest) => merges.forgetMember(digest),
    now,
  })
  const merges: AdapterMerges = new AdapterMerges({
    versions,
    residency,
    sources,
    ramBudgetBytes,
    now,
  })
  store?.watch((digest) => versions.noteChange(digest))
  const registry = createAdapterRegistry({
    versions,
    merges,
    sources,
    store,
    modelDigest: model.digest,
    maxCount: options.maxCount,
    maxTenantCount: options.maxTenantCount,
    openAttributor: options.openAttributor,
    log,
  })
  return {
    registry,
    intake: createIntake(options),
    stats: () => ({ ...residency.stats(), storedBytes: store?.usedBytes() ?? 0, stateCounts }),
  }
}

function createIntake({ model, rootDir, store, maxFileBytes }: AdaptersOptions): AdapterIntake {
  const baseId = model.id
  return {
    planFolder: async (path, fields) => {
      if (rootDir !== null) return planRegistration(path, fields, { rootDir, baseId })
      throw rejectFile('path', 'cannot be used: this server has no adapters directory')
    },
    planUpload: (folder, fields) => planUpload(folder, fields, baseId),
    planHub: (repo, fields) => planHubRegistration(repo, fields, baseId),
    stage: async () => requireStore(store).stage(),
    discard: async (folder) => store?.discard(folder),
    maxFileBytes,
  }
}
