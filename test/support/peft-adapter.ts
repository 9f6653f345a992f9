import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { listLinearModules } from '../../gpu-backend/adapters/module-patterns.ts'
import {
  LINEAR_NAMES,
  type LinearName,
  linearSizes,
  type ModelConfig,
} from '../../gpu-backend/model/model-source.ts'
import { encodeSafetensors } from './safetensors-file.ts'

export interface PeftAdapterOptions {
  readonly rank?: number
  readonly alpha?: number
  readonly modules?: readonly LinearName[]
  /** Layers that are adapted; all where absent. */
  readonly layers?: readonly number[]
  readonly seed?: number
  /** Size of B's values; A's are drawn so that `x · Aᵀ` has the size of `x`. */
  readonly amplitude?: number
  /** Rank of single modules, as `rank_pattern` will say too. */
  readonly ranks?: Readonly<Record<string, number>>
  /** Laid over the `adapter_config.json`; `undefined` removes a field. */
  readonly config?: Readonly<Record<string, unknown>>
  /** Changes the tensors before they are written. */
  readonly editTensors?: (tensors: PeftTensor[]) => PeftTensor[]
  /** `tallygate.json` beside them. */
  readonly manifest?: unknown
}

export interface PeftTensor {
  name: string
  dtype: string
  shape: number[]
  data: Uint8Array
}

/** Writes a random PEFT adapter for a model of this shape; the same options give the same bytes. */
export async function writePeftAdapter(
  folder: string,
  model: ModelConfig,
  options: PeftAdapterOptions = {},
): Promise<void> {
  const { rank = 4, alpha = 8, modules = LINEAR_NAMES, editTensors = (list) => list } = options
  const tensors = editTensors(createTensors(model, options))
  const config = {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: 'test/model',
    r: rank,
    lora_alpha: alpha,
    lora_dropout: 0,
    target_modules: modules.map((module) => `${module}_proj`),
    layers_to_transform: options.layers ?? null,
    rank_pattern: options.ranks ?? {},
    alpha_pattern: {},
    bias: 'none',
    use_rslora: false,
    use_dora: false,
    modules_to_save: null,
    inference_mode: true,
    ...options.config,
  }
  await mkdir(folder, { recursive: true })
  await writeFile(join(folder, 'adapter_config.json'), JSON.stringify(config, null, 2))
  await writeFile(join(folder, 'adapter_model.safetensors'), encodeSafetensors(tensors))
  if (options.manifest !== undefined) {
    await writeFile(join(folder, 'tallygate.json'), JSON.stringify(options.manifest))
  }
}

function createTensors(model: ModelConfig, options: PeftAdapterOptions): PeftTensor[] {
  const { rank = 4, modules = LINEAR_NAMES, layers, seed = 1, amplitude = 0.1 } = options
  const random = createRandom(seed)
  const sizes = linearSizes(model)
  const draw = (shape: number[], scale: number, name: string): PeftTensor => {
    const values = Float32Array.from(
      { length: shape.reduce((size, extent) => size * extent, 1) },
      () => (random() * 2 - 1) * scale,
    )
    return { name, dtype: 'F32', shape, data: new Uint8Array(values.buffer) }
  }
  return listLinearModules(model.layerCount)
    .filter(({ linear, layer }) => modules.includes(linear) && (layers?.includes(layer) ?? true))
    .flatMap(({ name, linear }) => {
      const [inSize, outSize] = sizes[linear]
      const own = options.ranks?.[`${linear}_proj`] ?? rank
      const prefix = `base_model.model.${name}`
      return [
        draw([own, inSize], Math.sqrt(3 / inSize), `${prefix}.lora_A.weight`),
        draw([outSize, own], amplitude, `${prefix}.lora_B.weight`),
      ]
    })
}

/** Uniform in [0, 1): mulberry32. */
function createRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The fields and files of `POST /v1/adapters`, of an adapter that is in a folder. */
export async function readAdapterForm(folder: string, fields: object): Promise<FormData> {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
    form.append('files', new Blob([await readFile(join(folder, name))]), name)
  }
  return form
}
