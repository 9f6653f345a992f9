import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import { readAdapterFile } from '../../gpu-backend/adapters/adapter-file.ts'
import { BackendError } from '../../gpu-backend/errors.ts'
import { TINY_CONFIG } from '../support/random-model.ts'
import { type Chance, damageBytes, oddValue } from './damage.ts'

export interface AdapterSample {
  /** Where each case is written. */
  readonly folder: string
  readonly config: Readonly<Record<string, unknown>>
  readonly weights: Uint8Array
  readonly digest: string
}

const FIELDS = [
  ...['peft_type', 'r', 'lora_alpha', 'use_rslora', 'target_modules', 'exclude_modules'],
  ...['layers_to_transform', 'layers_pattern', 'rank_pattern', 'alpha_pattern', 'bias'],
  ...['init_lora_weights', 'use_dora', 'modules_to_save', 'use_quantum', 'unknown', 'lora_bias'],
]

/** One PEFT directory, whole or damaged: the same adapter, finite values of the right shapes, or refused. */
export async function playAdapter(
  chance: Chance,
  sample: AdapterSample,
): Promise<'read' | 'refused'> {
  const kind = chance.between(0, 3)
  const config = kind === 1 || kind === 3 ? damageConfig(chance, sample.config) : sample.config
  const text = JSON.stringify(config)
  const json = kind === 3 ? damageBytes(chance, Buffer.from(text)) : text
  const weights = kind === 2 ? damageBytes(chance, sample.weights) : sample.weights
  await writeFile(join(sample.folder, 'adapter_config.json'), json)
  await writeFile(join(sample.folder, 'adapter_model.safetensors'), weights)
  try {
    const options = { rootDir: join(sample.folder, '..'), maxFileBytes: 1_000_000 }
    const read = await readAdapterFile(sample.folder, TINY_CONFIG, options)
    if (kind === 0) expect(read.digest).toBe(sample.digest)
    let sizeBytes = 0
    for (const { rank, scale, a, b } of read.modules.values()) {
      expect(Number.isFinite(Math.fround(scale))).toBe(true)
      expect(a.length % rank === 0 && b.length % rank === 0).toBe(true)
      expect(a.every(Number.isFinite) && b.every(Number.isFinite)).toBe(true)
      sizeBytes += a.byteLength + b.byteLength
    }
    expect(read.sizeBytes).toBe(sizeBytes)
    return 'read'
  } catch (error) {
    if (!(error instanceof BackendError)) throw error
    expect(error).toMatchObject({ code: 'adapter_rejected', param: expect.stringMatching(/./) })
    expect(error.message.length).toBeLessThan(6_000)
    return 'refused'
  }
}

function damageConfig(chance: Chance, config: Readonly<Record<string, unknown>>) {
  const damaged = { ...config }
  for (let left = chance.between(1, 3); left > 0; left--) {
    const field = chance.pick(FIELDS)
    damaged[field] = chance.pick<() => unknown>([
      () => oddValue(chance),
      () => ({ [chance.pick(['q_proj', '.*', '(', '__proto__'])]: oddValue(chance) }),
      () => undefined,
    ])()
  }
  return damaged
}
