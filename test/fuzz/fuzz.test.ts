import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readAdapterFile } from '../../gpu-backend/adapters/adapter-file.ts'
import { writePeftAdapter } from '../support/peft-adapter.ts'
import { TINY_CONFIG } from '../support/random-model.ts'
import { joinSafetensors } from '../support/safetensors-file.ts'
import { createTemporaryFolder, type TemporaryFolder } from '../support/temporary-folder.ts'
import { type AdapterSample, playAdapter } from './adapter-case.ts'
import { type Chance, createChance } from './damage.ts'
import { playGguf } from './gguf-case.ts'
import { playSafetensors } from './safetensors-case.ts'
import { playMultipart, playZip } from './upload-case.ts'

/** `FUZZ_SEED=17` replays one case of each reader; `FUZZ_COUNT=100000` plays so many. */
const { FUZZ_SEED = '1', FUZZ_COUNT = '500' } = process.env
const firstSeed = Number(FUZZ_SEED)
const caseCount = process.env.FUZZ_SEED === undefined ? Number(FUZZ_COUNT) : 1

let folder: TemporaryFolder
let sample: AdapterSample

beforeAll(async () => {
  folder = await createTemporaryFolder()
  const path = join(folder.path, 'adapter')
  await writePeftAdapter(path, TINY_CONFIG, { rank: 2, modules: ['q', 'down'] })
  const options = { rootDir: folder.path, maxFileBytes: 1_000_000 }
  sample = {
    folder: path,
    config: JSON.parse(await readFile(join(path, 'adapter_config.json'), 'utf8')),
    weights: await readFile(join(path, 'adapter_model.safetensors')),
    digest: (await readAdapterFile(path, TINY_CONFIG, options)).digest,
  }
})

afterAll(() => folder.remove())

type Play = (chance: Chance) => 'read' | 'refused' | Promise<'read' | 'refused'>

const READERS: Readonly<Record<string, Play>> = {
  safetensors: playSafetensors,
  GGUF: playGguf,
  adapters: (chance) => playAdapter(chance, sample),
  multipart: playMultipart,
  ZIP: playZip,
}

test.each(Object.entries(READERS))(
  '%s: whatever the bytes, they are read as they stand or refused by name',
  { timeout: 30_000 + caseCount * 20 },
  async (_, play) => {
    const counts = { read: 0, refused: 0 }
    for (let seed = firstSeed; seed < firstSeed + caseCount; seed++) {
      try {
        counts[await play(createChance(seed))] += 1
      } catch (cause) {
        throw new Error(`FUZZ_SEED=${seed}: ${String(cause)}`, { cause })
      }
    }
    if (caseCount > 1) {
      expect(counts.read).toBeGreaterThan(caseCount / 50)
      expect(counts.refused).toBeGreaterThan(caseCount / 5)
    }
  },
)

describe('a reader needs a heap of at most 32 bytes for a byte of the file', () => {
  const u64 = (value: number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
  const oneKey = (...value: Buffer[]) =>
    Buffer.concat([Buffer.from('GGUF'), u32(3), u64(0), u64(1), u64(1), Buffer.from('k'), ...value])
  const count = 1_000_000
  test.each<[string, () => Uint8Array, 'gguf' | 'safetensors']>([
    ['an array of bytes', () => oneKey(u32(9), u32(0), u64(count), Buffer.alloc(count)), 'gguf'],
    [
      'an array of empty arrays',
      () => oneKey(u32(9), u32(9), u64(count), Buffer.alloc(12 * count)),
      'gguf',
    ],
    [
      'an array of empty texts',
      () => oneKey(u32(9), u32(8), u64(count), Buffer.alloc(8 * count)),
      'gguf',
    ],
    [
      'a header of many tensors',
      () => {
        const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
        const entries = Array.from({ length: 40_000 }, (_, i) => `"${i.toString(36)}x":${entry}`)
        return joinSafetensors(`{${entries.join()}}`)
      },
      'safetensors',
    ],
  ])('%s', async (_, create, reader) => {
    const file = create()
    const heapMb = MODULES_MB + (32 * file.byteLength) / 2 ** 20
    expect(await parseInHeap(file, reader, heapMb)).toBe('read')
  })
})

/** What the reader's own code takes of a heap. */
const MODULES_MB = 12

/** Parses in a thread whose heap, garbage collected, cannot grow beyond a size. */
async function parseInHeap(file: Uint8Array, reader: 'gguf' | 'safetensors', heapMb: number) {
  const url = new URL(`../../gpu-backend/model/${reader}.ts`, import.meta.url).href
  const parse = reader === 'gguf' ? 'parseGguf' : 'parseSafetensors'
  const code = `const { parentPort, workerData } = require('node:worker_threads')
import(${JSON.stringify(url)}).then(({ ${parse} }) =>
  parentPort.postMessage(${parse}(workerData) ? 'read' : 'nothing'))`
  const worker = new Worker(code, {
    eval: true,
    workerData: file,
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: heapMb, maxYoungGenerationSizeMb: 2 },
  })
  const { promise, resolve } = Promise.withResolvers<unknown>()
  worker.once('message', resolve)
  worker.once('error', resolve)
  const outcome = await promise
  await worker.terminate()
  return outcome
}
