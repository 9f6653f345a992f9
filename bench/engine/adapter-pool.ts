import { existsSync } from 'node:fs'
import { link, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { inspectAdapterFile, readAdapterFile } from '../../gpu-backend/adapters/adapter-file.ts'
import { CONFIG_FILE, WEIGHTS_FILE } from '../../gpu-backend/adapters/adapter-folder.ts'
import type { LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'
import type { LinearName, ModelConfig } from '../../gpu-backend/model/model-source.ts'
import type { Digest } from '../../protocol/digest.ts'
import { writePeftAdapter } from '../../test/support/peft-adapter.ts'

/** PEFT adapters with small random weights, made once and kept in the cache. */

export const ADAPTER_SHAPES = {
  /** PEFT's defaults. */
  'r=8 on q, v': { rank: 8, modules: ['q', 'v'] },
  'r=16 on all modules': {
    rank: 16,
    modules: ['q', 'k', 'v', 'o', 'gate', 'up', 'down'],
  },
} as const satisfies Record<string, { rank: number; modules: readonly LinearName[] }>

export type AdapterShape = keyof typeof ADAPTER_SHAPES

/** Files of each shape that differ. */
export const POOL_SIZE = 16

export interface AdapterPool {
  /** One of `POOL_SIZE` adapters of the shape. */
  readonly pathOf: (shape: AdapterShape, index: number) => string
  readonly read: (shape: AdapterShape, index: number) => Promise<LoraWeights>
  /** All adapters lie in it. */
  readonly rootDir: string
  /** So many adapters of PEFT's defaults. */
  readonly listMany: (count: number) => Promise<readonly ManyAdapter[]>
}

export interface ManyAdapter {
  readonly folder: string
  readonly digest: Digest
  readonly sizeBytes: number
}

const MAX_FILE_BYTES = 1_000_000_000

/** Reads an adapter's folder. */
export function createAdapterReader(model: ModelConfig): (folder: string) => Promise<LoraWeights> {
  return (folder) =>
    readAdapterFile(folder, model, { rootDir: dirname(folder), maxFileBytes: MAX_FILE_BYTES })
}

export async function openAdapterPool(cacheDir: string, model: ModelConfig): Promise<AdapterPool> {
  const { layerCount, hiddenSize, ffnSize } = model
  const root = join(cacheDir, `adapters-${layerCount}-${hiddenSize}-${ffnSize}`)
  const manyDir = join(root, 'many')
  const pathOf = (shape: AdapterShape, index: number) =>
    join(root, `${shape.replaceAll(/\W+/g, '-')}-${index}`)
  const ensure = async (shape: AdapterShape, index: number) => {
    const folder = pathOf(shape, index)
    if (existsSync(folder)) return folder
    const part = `${folder}.part`
    const { rank, modules } = ADAPTER_SHAPES[shape]
    await writePeftAdapter(part, model, { rank, modules, seed: index + 1, amplitude: 0.01 })
    await rename(part, folder)
    return folder
  }
  await mkdir(manyDir, { recursive: true })
  for (const shape of ['r=8 on q, v', 'r=16 on all modules'] as const) {
    for (let index = 0; index < POOL_SIZE; index++) await ensure(shape, index)
  }
  const options = { rootDir: root, maxFileBytes: MAX_FILE_BYTES }
  return {
    pathOf,
    read: (shape, index) => createAdapterReader(model)(pathOf(shape, index)),
    rootDir: root,
    listMany: (count) =>
      listMany(count, {
        indexPath: join(root, 'many.json'),
        folderOf: (index) => join(manyDir, String(index)),
        originOf: (index) => pathOf('r=8 on q, v', index % POOL_SIZE),
        inspect: (folder) => inspectAdapterFile(folder, model, options),
      }),
  }
}

interface ManyOptions {
  readonly indexPath: string
  readonly folderOf: (index: number) => string
  readonly originOf: (index: number) => string
  readonly inspect: (folder: string) => Promise<Pick<ManyAdapter, 'digest' | 'sizeBytes'>>
}

/**
 * Adapters that differ in `lora_alpha`, and so in their digests, over hard links of the same few
 * weights: 10,000 of them take little disk. What inspecting them gave is kept.
 */
async function listMany(
  count: number,
  { indexPath, folderOf, originOf, inspect }: ManyOptions,
): Promise<readonly ManyAdapter[]> {
  const known: ManyAdapter[] = JSON.parse(await readFile(indexPath, 'utf8').catch(() => '[]'))
  const isComplete = known.length >= count
  for (let index = known.length; index < count; index++) {
    const folder = folderOf(index)
    const origin = originOf(index)
    await rm(folder, { recursive: true, force: true })
    await mkdir(folder)
    const config = JSON.parse(await readFile(join(origin, CONFIG_FILE), 'utf8'))
    const own = { ...config, lora_alpha: 8 + index / 10_000 }
    await writeFile(join(folder, CONFIG_FILE), JSON.stringify(own))
    await link(join(origin, WEIGHTS_FILE), join(folder, WEIGHTS_FILE))
    const { digest, sizeBytes } = await inspect(folder)
    known.push({ folder, digest, sizeBytes })
  }
  if (!isComplete) await writeFile(indexPath, JSON.stringify(known))
  return known.slice(0, count)
}
