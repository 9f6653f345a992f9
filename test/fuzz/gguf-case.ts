import { expect } from 'vitest'
import { GGML_TYPES } from '../../gpu-backend/model/ggml-blocks.ts'
import { parseGguf } from '../../gpu-backend/model/gguf.ts'
import { readGgufConfig } from '../../gpu-backend/model/gguf-config.ts'
import { readGgufTokenizer } from '../../gpu-backend/model/gguf-tokenizer.ts'
import { encodeGguf, type GgufField } from '../support/gguf-file.ts'
import { type Chance, damageBytes } from './damage.ts'
import { expectRefusal } from './safetensors-case.ts'

/** One file, whole or damaged: read exactly as it was written, or refused; with the config and tokenizer in it. */
export function playGguf(chance: Chance): 'read' | 'refused' {
  const written = write(chance)
  const file = encodeGguf(written.metadata, written.tensors, chance.pick([2, 3]))
  if (chance.between(0, 3) > 0) return read(damageBytes(chance, file))
  const { metadata, tensors } = parseGguf(file)
  expect([...metadata.keys()]).toEqual(Object.keys(written.metadata))
  for (const [key, field] of Object.entries(written.metadata)) {
    expect(metadata.get(key)).toEqual(Object.values(field)[0])
  }
  expect(tensors.size).toBe(written.tensors.length)
  for (const { name, shape, data } of written.tensors) {
    expect(tensors.get(name)).toMatchObject({ name, shape, data })
  }
  return readRest(file)
}

function read(file: Uint8Array): 'read' | 'refused' {
  try {
    let totalBytes = 0
    for (const { type, shape, data } of parseGguf(file).tensors.values()) {
      const layout = [...GGML_TYPES.values()].find(({ name }) => name === type)!
      const count = shape.reduce((product, extent) => product * extent, 1)
      expect(data.byteLength).toBe((count / layout.blockLength) * layout.blockBytes)
      totalBytes += data.byteLength
    }
    expect(totalBytes).toBeLessThanOrEqual(file.byteLength)
    return readRest(file)
  } catch (error) {
    expectRefusal(error)
    return 'refused'
  }
}

/** What the model's reader takes from a file that is well formed. */
function readRest(file: Uint8Array): 'read' | 'refused' {
  const { metadata, tensors } = parseGguf(file)
  try {
    readGgufConfig(metadata, tensors)
    readGgufTokenizer(metadata)
    return 'read'
  } catch (error) {
    expectRefusal(error)
    return 'refused'
  }
}

function write(chance: Chance) {
  const { between, pick } = chance
  const metadata: Record<string, GgufField> = {
    'general.architecture': { text: pick(['llama', 'llama', 'llama', 'gpt']) },
    'llama.block_count': pick<GgufField>([{ u32: 2 }, { u32: 2 }, { text: '2' }]),
    'llama.embedding_length': { u32: pick([64, 64, 0, 2 ** 32 - 1]) },
    'llama.attention.head_count': { u32: pick([4, 0]) },
    'llama.feed_forward_length': { u32: 128 },
    'llama.context_length': { u32: 512 },
    'llama.attention.layer_norm_rms_epsilon': { f32: 0.5 },
    'tokenizer.ggml.model': { text: pick(['gpt2', 'gpt2', 'gpt2', 'llama']) },
    'tokenizer.ggml.pre': { text: pick(['smollm', 'qwen2', 'tekken', 'nobody']) },
    'tokenizer.ggml.tokens': { texts: pick([['a', 'b', 'ü🦊'], [], ['a', 'a'], ['__proto__']]) },
    'tokenizer.ggml.token_type': { i32s: [3, -1, 4] },
    'tokenizer.ggml.merges': { texts: pick([['a b'], ['ab'], []]) },
    'tokenizer.ggml.eos_token_id': pick<GgufField>([{ u32: 1 }, { u32: 9 }, { f32: 0.5 }]),
  }
  if (chance.random() < 0.2) delete metadata[pick(Object.keys(metadata))]
  const names = new Set(Array.from({ length: between(0, 4) }, () => pick(NAMES)))
  const tensors = [...names].map((name) => {
    const [type, layout] = pick([...GGML_TYPES])
    const shape = [
      ...Array.from({ length: between(0, 2) }, () => between(0, 3)),
      layout.blockLength,
    ]
    const count = shape.reduce((product, extent) => product * extent, 1)
    const data = new Uint8Array((count / layout.blockLength) * layout.blockBytes)
    for (let at = 0; at < data.length; at++) data[at] = between(0, 255)
    return { name, shape, type, data }
  })
  return { metadata, tensors }
}

const NAMES = ['token_embd.weight', 'blk.0.attn_q.weight', 'rope_freqs.weight', 'ü🦊', '']
