import { dirname } from 'node:path'
import type { Digest } from '../../protocol/digest.ts'
import { BackendError } from '../errors.ts'
import type { ModelConfig } from '../model/model-source.ts'
import { inspectAdapterFile, readAdapterFile } from './adapter-file.ts'
import { type AdapterSource, rejectFile } from './adapter-folder.ts'
import type { AdapterStore, StoredSource } from './adapter-store.ts'
import { fetchHubAdapter, type HubOptions } from './hub-client.ts'
import type { LoraSummary } from './lora-tensors.ts'
import type { LoraWeights } from './lora-weights.ts'

/** A content and where to find it again. */
export interface SourcedContent {
  readonly digest: Digest
  readonly source: StoredSource
}

export interface PreparedAdapter extends LoraSummary, SourcedContent {}

/** Where adapters come from, down to this machine's disk: nothing of them is kept in memory. */
export interface AdapterSources {
  /**
   * Checks every byte, and fetches or takes over the files that are not on disk yet; undone by
   * `forget`. Throws `adapter_rejected` or `adapter_unavailable`.
   */
  readonly prepare: (source: AdapterSource) => Promise<PreparedAdapter>
  /**
   * Resolves when the files are on disk, where they stay until the function returned is called,
   * once. Asks for one content share one fetch. `onFetch` is called before and after a fetch.
   */
  readonly hold: (content: SourcedContent, onFetch: () => void) => Promise<() => void>
  readonly isOnDisk: (content: SourcedContent) => boolean
  readonly isFetching: (content: SourcedContent) => boolean
  /** The weights of exactly this digest. Throws `adapter_rejected` when the files were changed. */
  readonly read: (content: SourcedContent) => Promise<LoraWeights>
  /** One registration less; `isLast`: no other has the content. */
  readonly forget: (content: SourcedContent, isLast: boolean) => Promise<void>
}

export interface AdapterSourcesOptions {
  readonly model: ModelConfig
  /** Folder that local adapters must lie in; null: there are none. */
  readonly rootDir: string | null
  readonly maxFileBytes: number
  /** Null: neither uploads nor fetches. */
  readonly store: AdapterStore | null
  readonly hub: HubOptions
}

export function createAdapterSources(options: AdapterSourcesOptions): AdapterSources {
  const { store, model, maxFileBytes } = options
  const fetches = new Map<Digest, Promise<void>>()

  const locate = ({ digest, source }: SourcedContent) =>
    source.kind === 'folder'
      ? { folder: source.folder, rootDir: options.rootDir ?? source.folder, maxFileBytes }
      : locateStored(requireStore(store).pathOf(digest))
  const locateStored = (folder: string) => ({ folder, rootDir: dirname(folder), maxFileBytes })
  const inspect = (folder: string) => inspectAdapterFile(folder, model, locateStored(folder))

  const prepareHub = async (source: Extract<AdapterSource, { kind: 'hub' }>) => {
    const folder = await requireStore(store).stage()
    try {
      const { commit } = await fetchHubAdapter(source, folder, options.hub)
      const summary = await inspect(folder)
      await requireStore(store).adopt(folder, summary.digest)
      store?.release(summary.digest)
      return { ...summary, source: { kind: 'hub' as const, repo: source.repo, commit } }
    } finally {
      await store?.discard(folder)
    }
  }

  const prepareUpload = async (folder: string) => {
    const summary = await inspect(folder)
    await requireStore(store).adopt(folder, summary.digest)
    return { ...summary, source: { kind: 'upload' as const } }
  }

  /** Brings a content of the hub back to disk; when it resolves, nobody uses it yet. */
  const fetchAgain = async (digest: Digest, repo: string, commit: string) => {
    const folder = await requireStore(store).stage()
    try {
      await fetchHubAdapter({ repo, revision: commit }, folder, options.hub)
      const summary = await inspect(folder)
      if (summary.digest !== digest) throw rejectFile('repo', 'has another content than before')
      await requireStore(store).adopt(folder, digest)
      store?.release(digest)
    } finally {
      await store?.discard(folder)
    }
  }

  const hold = async (content: SourcedContent, onFetch: () => void): Promise<() => void> => {
    const { digest, source } = content
    if (source.kind !== 'hub') return () => undefined
    while (!requireStore(store).use(digest)) {
      const running = fetches.get(digest)
      if (running) {
        await running
        continue
      }
      const fetching = fetchAgain(digest, source.repo, source.commit).finally(() =>
        fetches.delete(digest),
      )
      fetches.set(digest, fetching)
      onFetch()
      await fetching.finally(onFetch)
    }
    return () => store?.release(digest)
  }

  return {
    prepare: async (source) => {
      switch (source.kind) {
        case 'hub':
          return prepareHub(source)
        case 'upload':
          return prepareUpload(source.folder)
        case 'folder': {
          const { folder } = source
          const rootDir = options.rootDir ?? folder
          return { ...(await inspectAdapterFile(folder, model, { rootDir, maxFileBytes })), source }
        }
      }
    },
    hold,
    isOnDisk: ({ digest, source }) => source.kind !== 'hub' || (store?.has(digest) ?? false),
    isFetching: ({ digest }) => fetches.has(digest),
    read: async (content) => {
      const { folder, ...limits } = locate(content)
      const weights = await readAdapterFile(folder, model, limits)
      if (weights.digest === content.digest) return weights
      throw rejectFile('path', 'was changed since it was registered: register it again')
    },
    forget: async ({ digest, source }, isLast) => {
      if (source.kind === 'folder') return
      if (source.kind === 'upload') store?.release(digest)
      if (isLast) await store?.remove(digest)
    },
  }
}

/** Throws `adapter_rejected` where there is none. */
export function requireStore(store: AdapterStore | null): AdapterStore {
  if (store) return store
  throw new BackendError(
    'adapter_rejected',
    'This server has no folder to keep uploaded or fetched adapters in.',
    { param: 'ADAPTER_STORE_DIR' },
  )
}
