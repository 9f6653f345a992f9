import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { InstalledPeer } from './install-peer.ts'

/** llama.cpp in this process, on the CPU, through the native addon's own calls: no JavaScript layer of a library is measured. */
export interface Peer {
  /** Build and instruction sets. */
  readonly description: string
  readonly openModel: (path: string) => Promise<PeerModel>
}

export interface PeerModel {
  readonly openContext: (options: PeerContextOptions) => Promise<PeerContext>
  readonly loadLora: (path: string) => Promise<AddonLora>
  readonly close: () => Promise<void>
}

export interface PeerContextOptions {
  readonly sequenceCount: number
  /** Tokens that each sequence may hold. */
  readonly sequenceTokens: number
  readonly threadCount: number
  readonly flashAttention: boolean
}

export interface PeerRow {
  readonly sequence: number
  readonly position: number
  readonly tokens: Uint32Array
}

export interface PeerContext {
  /** One `llama_decode` of all rows, which computes the logits after each row's last token. Nothing is sampled. */
  readonly decode: (rows: readonly PeerRow[]) => Promise<void>
  /** Drops a sequence's tokens from `position` on. */
  readonly forget: (sequence: number, position: number) => void
  /** For all sequences of what is decoded next: llama.cpp has no other way. */
  readonly setLora: (lora: AddonLora | null) => void
  readonly close: () => Promise<void>
}

interface AddonLora {
  readonly filePath: string
}

interface AddonModel {
  init(): Promise<boolean>
  loadLora(lora: AddonLora): Promise<void>
  dispose(): Promise<void>
}

interface AddonContext {
  init(): Promise<boolean>
  initBatch(size: number): void
  addToBatch(
    sequence: number,
    position: number,
    tokens: Uint32Array,
    logitIndexes: Uint32Array,
  ): void
  decodeBatch(): Promise<void>
  removeTokenCellsFromSequence(sequence: number, start: number, end: number): boolean
  setLoras(loras: readonly AddonLora[], scales: readonly number[]): void
  dispose(): Promise<void>
}

interface Addon {
  readonly AddonModel: new (path: string, params: object) => AddonModel
  readonly AddonModelLora: new (model: AddonModel, path: string) => AddonLora
  readonly AddonContext: new (model: AddonModel, params: object) => AddonContext
  systemInfo(): string
  setLogger(logger: (level: number, message: string) => void): void
  loadBackends(folder?: string): void
  init(): Promise<void>
}

export async function openPeer({ binDir, name }: InstalledPeer): Promise<Peer> {
  const addon: Addon = createRequire(import.meta.url)(join(binDir, 'llama-addon.node'))
  addon.setLogger(() => undefined)
  // The library that fits this CPU best is chosen among those of the folder.
  addon.loadBackends()
  addon.loadBackends(binDir)
  await addon.init()
  const flags = addon.systemInfo().matchAll(/(\w+) = 1/g)
  return {
    description: `${name}: ${[...flags].map(([, flag]) => flag).join(' ')}`,
    openModel: (path) => openModel(addon, path),
  }
}

async function openModel(addon: Addon, path: string): Promise<PeerModel> {
  const model = new addon.AddonModel(path, { addonExports: addon, gpuLayers: 0, useMmap: true })
  assert(await model.init(), `llama.cpp opens ${path}.`)
  return {
    openContext: (options) => openContext(new addon.AddonContext(model, planContext(options))),
    async loadLora(loraPath) {
      const lora = new addon.AddonModelLora(model, loraPath)
      await model.loadLora(lora)
      return lora
    },
    close: () => model.dispose(),
  }
}

/** A step is never split: `batchSize` is n_batch and n_ubatch. */
function planContext(options: PeerContextOptions): object {
  const { sequenceCount, sequenceTokens, threadCount, flashAttention } = options
  return {
    contextSize: sequenceCount * sequenceTokens,
    sequences: sequenceCount,
    batchSize: 512,
    threads: threadCount,
    flashAttention,
  }
}

async function openContext(context: AddonContext): Promise<PeerContext> {
  assert(await context.init(), 'llama.cpp opens a context.')
  return {
    async decode(rows) {
      context.initBatch(rows.reduce((sum, { tokens }) => sum + tokens.length, 0))
      for (const { sequence, position, tokens } of rows) {
        context.addToBatch(sequence, position, tokens, Uint32Array.of(tokens.length - 1))
      }
      await context.decodeBatch()
    },
    forget: (sequence, position) => {
      context.removeTokenCellsFromSequence(sequence, position, -1)
    },
    setLora: (lora) => context.setLoras(lora ? [lora] : [], lora ? [1] : []),
    close: () => context.dispose(),
  }
}
