import { readdir } from 'node:fs/promises'
import { ModelFileError } from '../model/model-file-error.ts'
import type { ModelConfig } from '../model/model-source.ts'
import { parseSafetensors } from '../model/safetensors.ts'
import { planModules } from './adapter-config.ts'
import { readConfinedFile, readJsonFile, rejectFile } from './adapter-folder.ts'
import { assembleLoraWeights } from './lora-tensors.ts'
import type { LoraWeights } from './lora-weights.ts'

const CONFIG = 'adapter_config.json'
const WEIGHTS = 'adapter_model.safetensors'

export interface AdapterFileOptions {
  /** Folder that no file of the adapter may lie, or link, outside of. */
  readonly rootDir: string
  /** Largest weights file that is read. */
  readonly maxFileBytes: number
}

/**
 * Reads and checks a PEFT directory: `adapter_config.json` and `adapter_model.safetensors`. Throws
 * `adapter_rejected` naming the file, field or tensor at fault.
 */
export async function readAdapterFile(
  folder: string,
  config: ModelConfig,
  { rootDir, maxFileBytes }: AdapterFileOptions,
): Promise<LoraWeights> {
  const names = new Set(await readdir(folder).catch(() => []))
  if (!names.has(CONFIG)) throw rejectFile(CONFIG, 'is missing: this is no PEFT directory')
  if (!names.has(WEIGHTS)) {
    const isPickle = names.has('adapter_model.bin')
    throw rejectFile(
      WEIGHTS,
      isPickle ? 'is missing, and adapter_model.bin, a pickle, is never read' : 'is missing',
    )
  }
  const plan = planModules(await readJsonFile(folder, CONFIG, rootDir), config.layerCount)
  const bytes = await readConfinedFile(folder, WEIGHTS, { rootDir, maxBytes: maxFileBytes })
  try {
    return await assembleLoraWeights(plan, parseSafetensors(bytes), config)
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    throw rejectFile(WEIGHTS, `cannot be used: ${error.message.replace(/\.$/, '')}`, error)
  }
}
