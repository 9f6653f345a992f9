import { readdir } from 'node:fs/promises'
import { ModelFileError } from '../model/model-file-error.ts'
import type { ModelConfig } from '../model/model-source.ts'
import { parseSafetensors, type SafetensorsFile } from '../model/safetensors.ts'
import { type ModulePlan, planModules } from './adapter-config.ts'
import {
  CONFIG_FILE,
  readConfinedFile,
  readJsonFile,
  rejectFile,
  WEIGHTS_FILE,
} from './adapter-folder.ts'
import { inspectLora, type LoraSummary, readLora } from './lora-tensors.ts'
import type { LoraModuleKey, LoraWeights } from './lora-weights.ts'

export interface AdapterFileOptions {
  /** Folder that no file of the adapter may lie, or link, outside of. */
  readonly rootDir: string
  /** Largest weights file that is read. */
  readonly maxFileBytes: number
}

/**
 * Checks every byte of a PEFT directory (`adapter_config.json` and `adapter_model.safetensors`) and
 * keeps none of them. Throws `adapter_rejected` naming the file, field or tensor at fault.
 */
export async function inspectAdapterFile(
  folder: string,
  config: ModelConfig,
  options: AdapterFileOptions,
): Promise<LoraSummary> {
  return openAdapterFile(folder, options, config, inspectLora)
}

/** Checks and reads a PEFT directory. Throws as {@link inspectAdapterFile}. */
export async function readAdapterFile(
  folder: string,
  config: ModelConfig,
  options: AdapterFileOptions,
): Promise<LoraWeights> {
  return openAdapterFile(folder, options, config, readLora)
}

async function openAdapterFile<Result>(
  folder: string,
  { rootDir, maxFileBytes }: AdapterFileOptions,
  config: ModelConfig,
  use: (
    plan: ReadonlyMap<LoraModuleKey, ModulePlan>,
    file: SafetensorsFile,
    config: ModelConfig,
  ) => Promise<Result>,
): Promise<Result> {
  const names = new Set(await readdir(folder).catch(() => []))
  if (!names.has(CONFIG_FILE))
    throw rejectFile(CONFIG_FILE, 'is missing: this is no PEFT directory')
  if (!names.has(WEIGHTS_FILE)) {
    const isPickle = names.has('adapter_model.bin')
    throw rejectFile(
      WEIGHTS_FILE,
      isPickle ? 'is missing, and adapter_model.bin, a pickle, is never read' : 'is missing',
    )
  }
  const plan = planModules(await readJsonFile(folder, CONFIG_FILE, rootDir), config.layerCount)
  const bytes = await readConfinedFile(folder, WEIGHTS_FILE, { rootDir, maxBytes: maxFileBytes })
  refuseLongHeader(bytes)
  try {
    return await use(plan, parseSafetensors(bytes), config)
  } catch (error) {
    if (!(error instanceof ModelFileError)) throw error
    throw rejectFile(WEIGHTS_FILE, `cannot be used: ${error.message.replace(/\.$/, '')}`, error)
  }
}

/** Parsing holds up everybody's streams; 10,000 matrices fit into this. */
const MAX_HEADER_BYTES = 2_000_000

function refuseLongHeader(file: Uint8Array): void {
  if (file.byteLength < 8) return
  const length = new DataView(file.buffer, file.byteOffset).getBigUint64(0, true)
  if (length <= MAX_HEADER_BYTES) return
  throw rejectFile(
    WEIGHTS_FILE,
    `has a header of ${length} bytes, and at most ${MAX_HEADER_BYTES} are read`,
  )
}
