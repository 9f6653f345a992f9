import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { LINEAR_NAMES, type ModelConfig } from '../../../gpu-backend/model/model-source.ts'
import { writePeftAdapter } from '../../../test/support/peft-adapter.ts'

const CONFIG = 'adapter_config.json'
const WEIGHTS = 'adapter_model.safetensors'

type Random = () => number

/** Writes adapters of mixed shapes below the folder, and returns their names. */
export async function writeAdapters(
  folder: string,
  config: ModelConfig,
  { random, count }: { readonly random: Random; readonly count: number },
): Promise<readonly string[]> {
  const names = Array.from({ length: count }, (_, index) => `own-${index}`)
  for (const [index, name] of names.entries()) {
    await writePeftAdapter(join(folder, name), config, {
      rank: [1, 2, 4, 8, 16, 32][index % 6] ?? 1,
      alpha: 4 + index,
      modules:
        index % 3 === 0 ? LINEAR_NAMES : index % 3 === 1 ? ['q', 'v'] : ['o', 'gate', 'down'],
      ...(index % 4 === 3 && { layers: [0] }),
      seed: Math.floor(random() * 2 ** 31),
      amplitude: 0.5,
      config: { use_rslora: index % 5 === 0 },
    })
  }
  return names
}

export type UploadFiles = ReadonlyMap<string, Uint8Array>

export async function readUpload(folder: string): Promise<UploadFiles> {
  const names = [CONFIG, WEIGHTS]
  const files = await Promise.all(names.map((name) => readFile(join(folder, name))))
  return new Map(names.map((name, index) => [name, files[index] ?? new Uint8Array()]))
}

/** What makes an adapter unusable, each in its own way. */
const DAMAGES: readonly ((files: Map<string, Uint8Array>, random: Random) => void)[] = [
  (files) => files.delete(CONFIG),
  (files) => files.delete(WEIGHTS),
  (files) => files.set('evil.pkl', Buffer.from('pickle')),
  (files) => files.set('bomb.zip', Buffer.alloc(4096)),
  (files) => files.set(CONFIG, Buffer.from('['.repeat(100_000))),
  (files) => changeConfig(files, { r: -1 }),
  (files) => changeConfig(files, { use_dora: true }),
  (files) => changeConfig(files, { target_modules: ['nothing'] }),
  (files) => changeConfig(files, { target_modules: '(' }),
  (files, random) => changeWeights(files, (bytes) => bytes.subarray(0, random() * bytes.length)),
  (files) => changeWeights(files, (bytes) => bytes.fill(255, 0, 8)),
  (files) => changeWeights(files, (bytes) => bytes.fill(255, bytes.length - 4)),
  (files) => changeWeights(files, (bytes) => Buffer.concat([bytes, bytes])),
  (files) => changeHeader(files, '"F32"', '"I32"'),
  (files) => changeHeader(files, '"data_offsets":[0,', '"data_offsets":[9,'),
  (files) => changeHeader(files, 'lora_A', 'lora_Z'),
]

export function damage(files: UploadFiles, random: Random): UploadFiles {
  const copy = new Map([...files].map(([name, bytes]) => [name, Uint8Array.from(bytes)]))
  DAMAGES[Math.floor(random() * DAMAGES.length)]?.(copy, random)
  return copy
}

function changeConfig(files: Map<string, Uint8Array>, fields: object): void {
  const config = JSON.parse(Buffer.from(files.get(CONFIG) ?? '').toString())
  files.set(CONFIG, Buffer.from(JSON.stringify({ ...config, ...fields })))
}

function changeWeights(
  files: Map<string, Uint8Array>,
  change: (bytes: Uint8Array) => Uint8Array,
): void {
  files.set(WEIGHTS, change(files.get(WEIGHTS) ?? new Uint8Array()))
}

/** Replaces the first place of a text by one of the same length. */
function changeHeader(files: Map<string, Uint8Array>, from: string, to: string): void {
  changeWeights(files, (bytes) => {
    bytes.set(Buffer.from(to), Buffer.from(bytes).indexOf(from))
    return bytes
  })
}
