import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readAdapterFile } from '../../gpu-backend/adapters/adapter-file.ts'
import { parseGguf } from '../../gpu-backend/model/gguf.ts'
import { parseSafetensors } from '../../gpu-backend/model/safetensors.ts'
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

describe('a reader takes at most 128 bytes of memory, garbage included, for a byte of the file', () => {
  const u64 = (value: number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer)
  const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer)
  const oneKey = (...value: Buffer[]) =>
    Buffer.concat([Buffer.from('GGUF'), u32(3), u64(0), u64(1), u64(1), Buffer.from('k'), ...value])
  const count = 300_000
  test.each<[string, () => Uint8Array, (file: Uint8Array) => unknown]>([
    ['an array of bytes', () => oneKey(u32(9), u32(0), u64(count), Buffer.alloc(count)), parseGguf],
    [
      'an array of empty arrays',
      () => oneKey(u32(9), u32(9), u64(count), Buffer.alloc(12 * count)),
      parseGguf,
    ],
    [
      'an array of empty texts',
      () => oneKey(u32(9), u32(8), u64(count), Buffer.alloc(8 * count)),
      parseGguf,
    ],
    [
      'a header of many tensors',
      () => {
        const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
        const entries = Array.from({ length: 20_000 }, (_, i) => `"${i.toString(36)}x":${entry}`)
        return joinSafetensors(`{${entries.join()}}`)
      },
      parseSafetensors,
    ],
  ])('%s', (_, create, parse) => {
    setFlagsFromString('--expose-gc')
    const collect: () => void = runInNewContext('gc')
    const file = create()
    collect()
    const beforeBytes = process.memoryUsage().heapUsed
    const parsed = parse(file)
    const takenBytes = process.memoryUsage().heapUsed - beforeBytes
    expect(parsed).toBeDefined()
    expect(takenBytes).toBeLessThan(128 * file.byteLength)
  })
})
