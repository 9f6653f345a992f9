import { join } from 'node:path'
import type { ThreadEngine } from '../../gpu-backend/thread-engine.ts'
import { openOwnEngine } from './own-engine.ts'
import { installPeer } from './peer/install-peer.ts'
import { openPeer, type Peer, type PeerContextOptions, type PeerModel } from './peer/llama-cpp.ts'
import { ensureQ40File } from './peer/q4-0-file.ts'
import type { BenchRow } from './report.ts'

export const PEER_FILES = ['same file', 'Q4_0'] as const

/** The very file that we serve, or the same model in llama.cpp's fastest form. */
export type PeerFile = (typeof PEER_FILES)[number]

export interface EngineBench {
  readonly modelPath: string
  readonly threadCount: number
  readonly cacheDir: string
  /** 1: the default length; windows and rounds grow with it. */
  readonly scale: number
  readonly engine: ThreadEngine
  /** Opened when first asked for; rejects where llama.cpp cannot be had. */
  readonly peer: () => Promise<OpenPeer>
  readonly add: (row: BenchRow) => void
}

export interface OpenPeer extends Pick<Peer, 'description'> {
  readonly models: Readonly<Record<PeerFile, PeerModel>>
  /** Whichever is faster here. */
  readonly flashAttention: Readonly<Record<'decode' | 'prefill', boolean>>
}

export interface EngineBenchOptions
  extends Pick<EngineBench, 'modelPath' | 'threadCount' | 'cacheDir' | 'scale' | 'add'> {}

export async function openBench(options: EngineBenchOptions) {
  let opening: Promise<OpenPeer> | null = null
  const peer = () => {
    opening ??= openBothModels(options)
    return opening
  }
  const engine = await openOwnEngine(options.modelPath, options.threadCount)
  return {
    ...options,
    engine,
    peer,
    /** Null: no bench asked for it. */
    findPeer: () => opening,
    async close() {
      await engine.close()
      const models = (await opening)?.models
      await models?.['same file'].close()
      await models?.Q4_0.close()
    },
  }
}

async function openBothModels({ modelPath, cacheDir, threadCount }: EngineBenchOptions) {
  const { description, openModel } = await openPeer(await installPeer(cacheDir))
  const q40Path = join(cacheDir, 'peer-q4-0.gguf')
  await ensureQ40File(modelPath, q40Path)
  const models = { 'same file': await openModel(modelPath), Q4_0: await openModel(q40Path) }
  const flashAttention = {
    decode: await isFaster(models.Q4_0, { sequenceCount: 8, threadCount, tokenCount: 1 }),
    prefill: await isFaster(models.Q4_0, { sequenceCount: 1, threadCount, tokenCount: 256 }),
  }
  const attention = `flash attention ${flashAttention.decode ? 'on' : 'off'} in decode, ${flashAttention.prefill ? 'on' : 'off'} in prefill (the faster)`
  return {
    description: `${description}; ${threadCount} threads, ${attention}, one llama_decode a step, no sampling`,
    models,
    flashAttention,
  }
}

interface Trial extends Pick<PeerContextOptions, 'sequenceCount' | 'threadCount'> {
  readonly tokenCount: number
}

/** Whether flash attention is faster at this, by the best of four tries each. */
async function isFaster(model: PeerModel, { tokenCount, ...options }: Trial): Promise<boolean> {
  const best: number[] = []
  for (const flashAttention of [false, true]) {
    const context = await model.openContext({ ...options, sequenceTokens: 512, flashAttention })
    const times: number[] = []
    const rows = (position: number, count: number) =>
      Array.from({ length: options.sequenceCount }, (_, sequence) => ({
        sequence,
        position,
        tokens: new Uint32Array(count).fill(10),
      }))
    for (const row of rows(0, 64)) await context.decode([row])
    for (let round = 0; round < 5; round++) {
      const startedAt = performance.now()
      await context.decode(rows(64, tokenCount))
      if (round > 0) times.push(performance.now() - startedAt)
      for (const { sequence } of rows(0, 0)) context.forget(sequence, 64)
    }
    await context.close()
    best.push(Math.min(...times))
  }
  const [without = 0, withIt = 0] = best
  return withIt < without
}
