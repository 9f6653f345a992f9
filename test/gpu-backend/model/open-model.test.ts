import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, describe, expect, it } from 'vitest'
import { ModelFileError } from '../../../gpu-backend/model/model-file-error.ts'
import { LINEAR_NAMES, type ModelSource } from '../../../gpu-backend/model/model-source.ts'
import { openModel } from '../../../gpu-backend/model/open-model.ts'
import { relativeError } from '../../../gpu-backend/model/quantise.ts'
import { expandWeights } from '../../../gpu-backend/model/weight-blocks.ts'
import { encodeSafetensors } from '../../support/safetensors-file.ts'
import { TINY_CONFIG, writeTinyFolder, writeTinyGguf } from '../../support/tiny-model.ts'
import { TINY_CHAT_TEMPLATE } from '../../support/tiny-tokenizer.ts'

const root = mkdtempSync(join(tmpdir(), 'open-model-'))
afterAll(() => rmSync(root, { recursive: true }))

let count = 0
const freshPath = (name: string) => join(root, `${count++}-${name}`)

/** All weights of a model in float32, by a name that no file format has. */
function allWeights(model: ModelSource): Map<string, Float32Array> {
  const weights = new Map([
    ['embedding', expandWeights(model.embedding())],
    ['head', expandWeights(model.head())],
    ['final norm', model.finalNorm()],
  ])
  for (let layer = 0; layer < model.config.layerCount; layer++) {
    weights.set(`${layer} attention norm`, model.norm(layer, 'attention'))
    weights.set(`${layer} ffn norm`, model.norm(layer, 'ffn'))
    for (const name of LINEAR_NAMES) {
      weights.set(`${layer} ${name}`, expandWeights(model.linear(layer, name)))
    }
  }
  return weights
}

describe('openModel', () => {
  it('gives the same model from a GGUF file, a folder and a folder of shards', async () => {
    const gguf = freshPath('tiny.gguf')
    const folder = freshPath('tiny')
    const shards = freshPath('tiny')
    writeTinyGguf(gguf, { seed: 3, linearType: 'F32', tableType: 'F32', isHeadTied: false })
    writeTinyFolder(folder, { seed: 3, isHeadTied: false })
    writeTinyFolder(shards, { seed: 3, isHeadTied: false, shardCount: 3 })
    const open = (path: string) => openModel(path, { precision: 'fp32' })
    const [a, b, c] = [await open(gguf), await open(folder), await open(shards)]
    expect(allWeights(b)).toEqual(allWeights(a))
    expect(allWeights(c)).toEqual(allWeights(a))
    expect(c.digest).toBe(b.digest)
    expect(b.config).toEqual(TINY_CONFIG)
    expect(a.config).toEqual({ ...TINY_CONFIG, normEpsilon: Math.fround(1e-5) })
    for (const { tokenizer } of [a, b]) {
      expect(tokenizer).toMatchObject({
        chatTemplate: TINY_CHAT_TEMPLATE,
        bosToken: '<|im_start|>',
        eosToken: '<|im_end|>',
        eosTokenIds: [2],
        addBos: false,
      })
    }
  })

  it.each(['Q4_0', 'Q4_1', 'Q8_0'] as const)('keeps the blocks of %s exactly', async (type) => {
    const path = freshPath('tiny.gguf')
    writeTinyGguf(path, { seed: 4, linearType: type })
    const int4 = await openModel(path, { precision: 'int4' })
    const fp32 = await openModel(path, { precision: 'fp32' })
    expect(int4.linear(1, 'k').form).toBe(type === 'Q8_0' ? 'q8' : 'q4')
    expect(int4.head().form).toBe('q8')
    expect(allWeights(int4)).toEqual(allWeights(fp32))
    expect(int4.digest).toBe(fp32.digest)
  })

  it.each(['F32', 'F16', 'BF16'] as const)(
    'quantises %s and says so in the digest',
    async (dtype) => {
      const path = freshPath('tiny')
      writeTinyFolder(path, { seed: 5, dtype })
      const int4 = await openModel(path, { precision: 'int4' })
      const fp32 = await openModel(path, { precision: 'fp32' })
      expect(int4.linear(0, 'down').form).not.toBe('f32')
      expect(int4.embedding().form).toBe('q8')
      expect(int4.digest).not.toBe(fp32.digest)
    },
  )

  it('makes rotated rows of int8 out of any type, and says so in the digest', async () => {
    for (const linearType of ['Q4_1', 'F32'] as const) {
      const path = freshPath('tiny.gguf')
      writeTinyGguf(path, { seed: 4, linearType })
      const int8 = await openModel(path, { precision: 'int8' })
      const fp32 = await openModel(path, { precision: 'fp32' })
      expect(int8.digest).not.toBe(fp32.digest)
      expect(int8.embedding().form).toBe('q8')
      for (const [made, exact] of [
        [int8.head(), fp32.head()],
        [int8.linear(1, 'q'), fp32.linear(1, 'q')],
      ] as const) {
        expect(made.form).toBe('rotated8')
        expect(relativeError(expandWeights(exact), made)).toBeLessThan(0.01)
      }
    }
  })

  it('gives one table for embedding and head where they are tied, two where not', async () => {
    for (const isHeadTied of [true, false]) {
      const path = freshPath('tiny')
      writeTinyFolder(path, { seed: 5, isHeadTied })
      const model = await openModel(path, { precision: 'int4' })
      expect(model.head() === model.embedding()).toBe(isHeadTied)
    }
  })

  it('names models by their path, without the quantisation', async () => {
    const path = join(root, 'Some-Model.Q4_1.gguf')
    writeTinyGguf(path, { seed: 6 })
    expect((await openModel(path, { precision: 'int4' })).name).toBe('Some-Model')
  })

  it('gives another digest for one other weight', async () => {
    const digests = await Promise.all(
      [7, 8].map(async (seed) => {
        const path = freshPath('tiny.gguf')
        writeTinyGguf(path, { seed })
        return (await openModel(path, { precision: 'int4' })).digest
      }),
    )
    expect(digests[0]).not.toBe(digests[1])
  })
})

describe('openModel on a bad folder', () => {
  let dir: string
  beforeEach(() => {
    dir = freshPath('bad')
    writeTinyFolder(dir, { seed: 9 })
  })

  const edit = (fileName: string, fields: object) => {
    const path = join(dir, fileName)
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...fields }))
  }

  it.each([
    ['another architecture', { architectures: ['GemmaForCausalLM'] }, 'GemmaForCausalLM is not'],
    [
      'an unknown RoPE scaling',
      { rope_scaling: { type: 'dynamic', factor: 2 } },
      '"dynamic" is not',
    ],
    ['RoPE scaling by nothing', { rope_scaling: { type: 'linear' } }, 'needs "factor"'],
    [
      'RoPE scaling by zero',
      { rope_scaling: { type: 'linear', factor: 0 } },
      'rope_scaling.factor',
    ],
    ['partly rotated heads', { partial_rotary_factor: 0.5 }, 'partly rotated heads'],
    ['attention biases', { attention_bias: true }, 'biases of all four attention layers'],
    [
      'a family whose tensors are missing',
      { architectures: ['Qwen2ForCausalLM'] },
      '"model.layers.0.self_attn.q_proj.bias" is missing',
    ],
    ['another activation', { hidden_act: 'gelu' }, '"hidden_act"'],
    ['a missing size', { hidden_size: undefined }, '"hidden_size"'],
    ['a context of zero', { max_position_embeddings: 0 }, 'contextLength is 0'],
    ['heads that do not share evenly', { num_attention_heads: 5 }, '5 query heads'],
    ['an odd head size', { head_dim: 15 }, 'headSize is 15'],
    [
      'a size that is not the tensors’',
      { intermediate_size: 96 },
      'mlp.gate_proj.weight" is [128, 64]',
    ],
    [
      'a layer too many',
      { num_hidden_layers: 3 },
      '"model.layers.2.input_layernorm.weight" is missing',
    ],
    [
      'a layer too few',
      { num_hidden_layers: 1 },
      '"model.layers.1.input_layernorm.weight" belongs',
    ],
    ['a missing head', { tie_word_embeddings: false }, '"lm_head.weight" is missing'],
  ])('refuses %s', async (_, fields, sentence) => {
    edit('config.json', fields)
    const opened = openModel(dir, { precision: 'fp32' })
    await expect(opened).rejects.toThrow(sentence)
    await expect(opened).rejects.toThrow(dir)
    await expect(opened).rejects.toBeInstanceOf(ModelFileError)
  })

  it.each([
    ['Mistral', { architectures: ['MistralForCausalLM'], sliding_window: 96 }, 96],
    ['Mistral without one', { architectures: ['MistralForCausalLM'], sliding_window: null }, 512],
    ['Llama, which has none', { sliding_window: 96 }, 512],
  ])(
    'ends the context where the sliding window of %s would begin to hide',
    async (_, fields, length) => {
      edit('config.json', fields)
      const { config } = await openModel(dir, { precision: 'fp32' })
      expect(config.contextLength).toBe(length)
    },
  )

  it.each([
    ['left out', undefined, 9000, 9000],
    ['off', false, 9000, 9000],
    ['on', true, 9000, 4096],
  ])('knows the window of Qwen2 when it is %s', async (_, isOn, positions, length) => {
    dir = freshPath('qwen2')
    writeTinyFolder(dir, { seed: 9, family: 'qwen2', config: { contextLength: positions } })
    edit('config.json', { sliding_window: undefined, use_sliding_window: isOn })
    const { config } = await openModel(dir, { precision: 'fp32' })
    expect(config.contextLength).toBe(length)
  })

  it('takes RoPE from the field of newer and of older files', async () => {
    const scaling = { rope_type: 'linear', factor: 2 }
    edit('config.json', {
      rope_theta: undefined,
      rope_scaling: undefined,
      rope_parameters: { ...scaling, rope_theta: 5000 },
    })
    const newer = await openModel(dir, { precision: 'fp32' })
    edit('config.json', { rope_theta: 5000, rope_scaling: scaling, rope_parameters: undefined })
    const older = await openModel(dir, { precision: 'fp32' })
    for (const { config } of [newer, older]) {
      expect(config).toMatchObject({ ropeTheta: 5000, ropeScaling: { kind: 'linear', factor: 2 } })
    }
  })

  it('refuses an end-of-sequence id outside the vocabulary', async () => {
    edit('generation_config.json', { eos_token_id: [2, 304] })
    await expect(openModel(dir, { precision: 'fp32' })).rejects.toThrow('end-of-sequence id 304')
  })

  it('refuses a tokenizer that is no BPE', async () => {
    edit('tokenizer.json', { pre_tokenizer: { type: 'Metaspace' }, decoder: null })
    await expect(openModel(dir, { precision: 'fp32' })).rejects.toThrow('only BPE is supported')
  })

  it.each(['config.json', 'tokenizer.json', 'model.safetensors'])(
    'names a missing %s',
    async (name) => {
      rmSync(join(dir, name))
      await expect(openModel(dir, { precision: 'fp32' })).rejects.toThrow(name)
    },
  )

  it('names a shard that holds nothing', async () => {
    writeFileSync(join(dir, 'model-0.safetensors'), encodeSafetensors([]))
    const weightMap = { a: 'model-0.safetensors' }
    writeFileSync(
      join(dir, 'model.safetensors.index.json'),
      JSON.stringify({ weight_map: weightMap }),
    )
    await expect(openModel(dir, { precision: 'fp32' })).rejects.toThrow(
      'Tensor "model.embed_tokens.weight" is missing',
    )
  })

  it('never leaves the folder for a shard', async () => {
    writeFileSync(
      join(dir, 'model.safetensors.index.json'),
      JSON.stringify({ weight_map: { a: '../model.safetensors' } }),
    )
    await expect(openModel(dir, { precision: 'fp32' })).rejects.toThrow('weight_map.a')
  })

  it('prefers chat_template.jinja, and takes a list of end tokens', async () => {
    writeFileSync(join(dir, 'chat_template.jinja'), '{{ messages[0].content }}')
    edit('generation_config.json', { eos_token_id: [2, 0] })
    const { tokenizer } = await openModel(dir, { precision: 'fp32' })
    expect(tokenizer).toMatchObject({
      chatTemplate: '{{ messages[0].content }}',
      eosTokenIds: [2, 0],
    })
  })
})

describe('openModel on a bad file', () => {
  it('says that nothing is there', async () => {
    const path = join(root, 'nowhere')
    await expect(openModel(path, { precision: 'int4' })).rejects.toThrow(
      `There is no model at ${path}.`,
    )
  })

  it('needs whole blocks for quantised weights only', async () => {
    const path = freshPath('odd.gguf')
    const config = { hiddenSize: 48, headSize: 12 }
    writeTinyGguf(path, { seed: 1, config, linearType: 'F32', tableType: 'F32' })
    for (const precision of ['int8', 'int4'] as const) {
      await expect(openModel(path, { precision })).rejects.toThrow('48 inputs')
    }
    const { linear } = await openModel(path, { precision: 'fp32' })
    expect(linear(0, 'q').form).toBe('f32')
  })

  it.each([
    ['linear', 'lonear', 'RoPE scaling "lonear" is not supported'],
    ['rope.scaling.factor', 'rope.scaling.faktor', '"llama.rope.scaling.faktor" is not supported'],
    ['rope.scaling.type', 'rope.scale_linear', '"llama.rope.scale_linear" is not supported'],
  ])('refuses RoPE scaling with %s turned into %s', async (from, to, sentence) => {
    const path = freshPath('scaled.gguf')
    writeTinyGguf(path, { seed: 1, config: { ropeScaling: { kind: 'linear', factor: 2 } } })
    const bytes = readFileSync(path)
    bytes.write(to, bytes.indexOf(from))
    writeFileSync(path, bytes)
    await expect(openModel(path, { precision: 'int4' })).rejects.toThrow(sentence)
  })

  it('refuses rope_freqs that turn nothing', async () => {
    for (const [factors, sentence] of [
      [[1, 1, 1, 1, 1, 1, 1, Number.POSITIVE_INFINITY], 'no positive frequencies'],
      [[1, 1, 1, 1, 1, 1, 1, 0], 'no positive frequencies'],
    ] as const) {
      const path = freshPath('factors.gguf')
      writeTinyGguf(path, { seed: 1, config: { ropeScaling: { kind: 'factors', factors } } })
      await expect(openModel(path, { precision: 'fp32' })).rejects.toThrow(sentence)
    }
  })

  it('gives another digest for other rope_freqs', async () => {
    const digests = await Promise.all(
      [2, 3].map(async (last) => {
        const path = freshPath('factors.gguf')
        const factors = [1, 1, 1, 1, 1, 1, 1, last]
        writeTinyGguf(path, { seed: 1, config: { ropeScaling: { kind: 'factors', factors } } })
        return (await openModel(path, { precision: 'int4' })).digest
      }),
    )
    expect(digests[0]).not.toBe(digests[1])
  })

  it.each([
    ['llama', 'gemma', 'architecture is "gemma"'],
    ['smollm', 'laller', '"tokenizer.ggml.pre" is "laller"'],
    ['gpt2', 'bert', '"tokenizer.ggml.model" is "bert"'],
    ['llama.context_length', 'llama.context_lengtX', '"llama.context_length" is missing'],
    ['ffn_norm', 'ffn_nerm', '"blk.0.ffn_norm.weight" is missing'],
  ])('refuses %s turned into %s', async (from, to, sentence) => {
    const path = freshPath('bad.gguf')
    writeTinyGguf(path, { seed: 1 })
    const bytes = readFileSync(path)
    bytes.write(to, bytes.indexOf(from))
    writeFileSync(path, bytes)
    await expect(openModel(path, { precision: 'int4' })).rejects.toThrow(sentence)
  })
})
