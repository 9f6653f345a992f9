import { existsSync } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CONFIG_FILE, WEIGHTS_FILE } from '../../../gpu-backend/adapters/adapter-folder.ts'
import { parseSafetensors } from '../../../gpu-backend/model/safetensors.ts'
import { encodeGguf } from '../../../test/support/gguf-file.ts'

const LAYER_NAMES: Readonly<Record<string, string>> = {
  q_proj: 'attn_q',
  k_proj: 'attn_k',
  v_proj: 'attn_v',
  o_proj: 'attn_output',
  gate_proj: 'ffn_gate',
  up_proj: 'ffn_up',
  down_proj: 'ffn_down',
}

const TYPE_F32 = 0

/**
 * The adapter of a PEFT folder as the GGUF that llama.cpp loads, beside it; once. Rows of q and k stay
 * in PEFT's order, which makes another adapter of it and no other work: enough to be timed.
 */
export async function ensureLoraGguf(folder: string): Promise<string> {
  const path = join(folder, 'adapter.gguf')
  if (existsSync(path)) return path
  const { lora_alpha: alpha } = JSON.parse(await readFile(join(folder, CONFIG_FILE), 'utf8'))
  const { tensors } = parseSafetensors(await readFile(join(folder, WEIGHTS_FILE)))
  const written = [...tensors.values()].map(({ name, shape, data }) => {
    const [, layer, module = '', side] = /\.(\d+)\..*\.(\w+)\.lora_([AB])\.weight$/.exec(name) ?? []
    const target = `blk.${layer}.${LAYER_NAMES[module]}.weight`
    return { name: `${target}.lora_${side?.toLowerCase()}`, shape, type: TYPE_F32, data }
  })
  const metadata = {
    'general.type': { text: 'adapter' },
    'general.architecture': { text: 'llama' },
    'adapter.type': { text: 'lora' },
    'adapter.lora.alpha': { f32: alpha },
  }
  await writeFile(`${path}.part`, encodeGguf(metadata, written))
  await rename(`${path}.part`, path)
  return path
}
