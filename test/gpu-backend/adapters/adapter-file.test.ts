import { mkdir, mkdtemp, readFile, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readAdapterFile } from '../../../gpu-backend/adapters/adapter-file.ts'
import {
  planRegistration,
  type RegistrationFields,
} from '../../../gpu-backend/adapters/adapter-folder.ts'
import { BackendError } from '../../../gpu-backend/errors.ts'
import {
  type PeftAdapterOptions,
  type PeftTensor,
  writePeftAdapter,
} from '../../support/peft-adapter.ts'
import { joinSafetensors } from '../../support/safetensors-file.ts'
import { TINY_CONFIG } from '../../support/test-backend.ts'

let scratch: string
let rootDir: string
let folderCount = 0

afterAll(() => rm(scratch, { recursive: true }))

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'adapters-'))
  rootDir = join(scratch, 'root')
  await mkdir(rootDir)
})

const nextFolder = () => {
  folderCount += 1
  return join(rootDir, `adapter-${folderCount}`)
}
const plan = (path: string, fields: RegistrationFields = {}) =>
  planRegistration(path, fields, { rootDir, baseId: 'base' })
const readFolder = (folder: string) =>
  readAdapterFile(folder, TINY_CONFIG, { rootDir, maxFileBytes: 100_000 })

async function read(options: PeftAdapterOptions) {
  const folder = nextFolder()
  await writePeftAdapter(folder, TINY_CONFIG, options)
  return readFolder(folder)
}

const prefix = 'base_model.model.model.layers'
const qv = { modules: ['q', 'v'] } satisfies PeftAdapterOptions
const edit = (name: string, change: (tensor: PeftTensor) => PeftTensor[]) => ({
  ...qv,
  editTensors: (tensors: PeftTensor[]) =>
    tensors.flatMap((tensor) => (tensor.name === name ? change(tensor) : [tensor])),
})
const setValue = (value: number) => (tensor: PeftTensor) => {
  const values = new Float32Array(tensor.data.slice().buffer)
  values[3] = value
  return [{ ...tensor, data: new Uint8Array(values.buffer) }]
}
/** All of a matrix in halves, one of them these bits. */
const setHalf = (dtype: string, bits: number) => (tensor: PeftTensor) => {
  const halves = new Uint16Array(tensor.data.byteLength / 4)
  halves[3] = bits
  return [{ ...tensor, dtype, data: new Uint8Array(halves.buffer) }]
}
const embedded = 'base_model.model.model.embed_tokens.lora_embedding_A'
const magnitude = `${prefix}.0.self_attn.q_proj.lora_magnitude_vector`
const qA = `${prefix}.0.self_attn.q_proj.lora_A.weight`
const vB = `${prefix}.1.self_attn.v_proj.lora_B.weight`

describe('accepted', () => {
  test('every linear layer, with B transposed', async () => {
    const tensors = new Map<string, PeftTensor>()
    const weights = await read({
      rank: 4,
      alpha: 8,
      editTensors: (list) => {
        for (const tensor of list) tensors.set(tensor.name, tensor)
        return list
      },
    })
    expect(weights.modules.size).toBe(14)
    const down = weights.modules.get('1.down')
    expect(down).toMatchObject({ rank: 4, scale: 2 })
    const stored = tensors.get(`${prefix}.1.mlp.down_proj.lora_B.weight`)
    const b = new Float32Array(stored!.data.slice().buffer) // [16, 4]
    expect(down?.b[2 * 16 + 5]).toBe(b[5 * 4 + 2])
    expect(weights.sizeBytes).toBe(
      [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0),
    )
  })

  const scales = async (options: PeftAdapterOptions) =>
    Object.fromEntries(
      Array.from((await read(options)).modules, ([key, { rank, scale }]) => [key, [rank, scale]]),
    )

  test.each([1, 2, 4, 20_000])(
    'the same values behind a header with %i bytes more, and they keep no such header',
    async (count) => {
      const folder = nextFolder()
      await writePeftAdapter(folder, TINY_CONFIG, { ...qv, rank: 32 })
      const path = join(folder, 'adapter_model.safetensors')
      const first = await readFolder(folder)
      const file = await readFile(path)
      const end = 8 + Number(file.readBigUInt64LE())
      const header = file.toString('utf8', 8, end) + ' '.repeat(count)
      await writeFile(path, joinSafetensors(header, file.subarray(end)))
      const weights = await readFolder(folder)
      expect(weights).toEqual(first)
      for (const { a, b } of weights.modules.values()) {
        for (const { buffer } of [a, b]) {
          expect(buffer.byteLength).toBeLessThanOrEqual(1.0625 * weights.sizeBytes)
        }
      }
    },
  )

  test('rsLoRA divides by the root of the rank', async () => {
    expect(await scales({ ...qv, rank: 16, alpha: 8, config: { use_rslora: true } })).toMatchObject(
      { '0.q': [16, 2], '1.v': [16, 2] },
    )
  })

  test('patterns are plain names, dotted suffixes or regular expressions; the first match decides', async () => {
    const config = {
      alpha_pattern: {
        'layers\\.(1|7)\\.self_attn\\.q_proj': 40,
        'self_attn.q_proj': 16,
        proj: 1000,
        'layers.0.self_attn.v_proj': 4,
      },
    }
    expect(await scales({ ...qv, rank: 4, alpha: 8, ranks: { v_proj: 2 }, config })).toEqual({
      '0.q': [4, 4],
      '0.v': [2, 2],
      '1.q': [4, 10],
      '1.v': [2, 4],
    })
  })

  test.each<[string, PeftAdapterOptions, string[]]>([
    ['all-linear', { config: { target_modules: 'all-linear' } }, []],
    [
      'a regular expression',
      { ...qv, config: { target_modules: '.*\\.self_attn\\.(q|v)_proj' } },
      ['0.q', '0.v', '1.q', '1.v'],
    ],
    ['some layers', { ...qv, layers: [1] }, ['1.q', '1.v']],
    ['one layer', { modules: ['up'], layers: [0], config: { layers_to_transform: 0 } }, ['0.up']],
    [
      'named layers',
      { modules: ['up'], layers: [1], config: { layers_pattern: ['layers', 'h'] } },
      ['1.up'],
    ],
    [
      'excluded modules',
      {
        modules: ['q'],
        config: { target_modules: ['q_proj', 'k_proj'], exclude_modules: ['k_proj'] },
      },
      ['0.q', '1.q'],
    ],
    [
      'whole names',
      {
        modules: ['k'],
        layers: [1],
        config: { layers_to_transform: null, target_modules: ['model.layers.1.self_attn.k_proj'] },
      },
      ['1.k'],
    ],
  ])('%s', async (_, options, keys) => {
    const { modules } = await read(options)
    if (keys.length > 0) expect([...modules.keys()]).toEqual(keys)
    else expect(modules.size).toBe(14)
  })
})

test('the digest names what is computed, whatever the file looks like', async () => {
  const digest = async (options: PeftAdapterOptions) => (await read({ ...qv, ...options })).digest
  const first = await digest({})
  expect(first).toMatch(/^0x[0-9a-f]{64}$/)
  expect(await digest({ editTensors: (tensors) => tensors.reverse() })).toBe(first)
  expect(await digest({ config: { lora_dropout: 0.1, task_type: 'SEQ_2_SEQ_LM' } })).toBe(first)
  expect(await digest({ config: { alpha_pattern: { q_proj: 8 } } })).toBe(first)
  const others = await Promise.all([
    digest({ seed: 2 }),
    digest({ alpha: 9 }),
    digest({ config: { use_rslora: true } }),
    digest({ config: { alpha_pattern: { q_proj: 9 } } }),
    digest({ layers: [0] }),
    digest(edit(vB, setValue(0.5))),
  ])
  expect(new Set([first, ...others]).size).toBe(7)
})

describe('rejected, naming what is at fault', () => {
  const config = (fields: Record<string, unknown>): PeftAdapterOptions => ({
    ...qv,
    config: fields,
  })

  test.each<[string, PeftAdapterOptions]>([
    ['peft_type', config({ peft_type: 'IA3' })],
    ['peft_type', config({ peft_type: undefined })],
    ['r', config({ r: 0 })],
    ['r', config({ r: 257 })],
    ['r', config({ r: 2.5 })],
    ['lora_alpha', config({ lora_alpha: '8' })],
    ['lora_alpha', config({ lora_alpha: undefined })],
    ['lora_alpha', config({ lora_alpha: 1e300 })],
    ['use_dora', config({ use_dora: true })],
    ['bias', config({ bias: 'all' })],
    ['bias', config({ bias: 'lora_only' })],
    ['lora_bias', config({ lora_bias: true })],
    ['modules_to_save', config({ modules_to_save: ['lm_head'] })],
    ['init_lora_weights', config({ init_lora_weights: 'pissa' })],
    ['layer_replication', config({ layer_replication: [[0, 2]] })],
    ['trainable_token_indices', config({ trainable_token_indices: [1] })],
    ['use_qalora', config({ use_qalora: true })],
    ['target_modules', config({ target_modules: undefined })],
    ['target_modules', config({ target_modules: [] })],
    ['target_modules', config({ target_modules: ['q_proj', 'lm_head'] })],
    ['target_modules', config({ target_modules: ['c_attn'] })],
    ['target_modules', config({ target_modules: ['embed_tokens', 'q_proj'] })],
    ['target_modules', config({ target_modules: '.*(q_proj|v_proj|lm_head)' })],
    ['target_modules', config({ target_modules: '.*(q_proj|v_proj|embed_tokens)' })],
    [embedded, edit(qA, (tensor) => [tensor, { ...tensor, name: embedded }])],
    [magnitude, edit(qA, (tensor) => [tensor, { ...tensor, name: magnitude }])],
    ['alpha_pattern', config({ alpha_pattern: { 'layers.1.self_attn.v_proj': 1e42 } })],
    [vB, edit(vB, setValue(3e38))],
    [qA, edit(qA, setHalf('F16', 0x7c00))],
    [qA, edit(qA, setHalf('F16', 0xfe00))],
    [qA, edit(qA, setHalf('BF16', 0xff80))],
    [qA, edit(qA, setHalf('BF16', 0x7fc0))],
    ['target_modules', config({ target_modules: 'nothing' })],
    ['target_modules', config({ target_modules: '.*' })],
    ['target_modules', config({ target_modules: '(' })],
    ['target_modules', config({ target_modules: '(?P<a>q)_proj' })],
    ['target_modules', config({ target_modules: '(.*.*)*[^j]\\1x' })],
    ['layers_to_transform', config({ layers_to_transform: [2] })],
    ['layers_to_transform', config({ layers_to_transform: -1 })],
    ['rank_pattern.q_proj', config({ rank_pattern: { q_proj: 0 } })],
    ['rank_pattern.(', config({ rank_pattern: { '(': 4 } })],
    ['alpha_pattern.q_proj', config({ alpha_pattern: { q_proj: null } })],
    [qA, config({ rank_pattern: { q_proj: 8 } })],
    [qA, edit(qA, () => [])],
    [vB, edit(vB, () => [])],
    [
      `${prefix}.0.self_attn.k_proj.lora_A.weight`,
      config({ target_modules: ['q_proj', 'k_proj', 'v_proj'] }),
    ],
    [`${prefix}.0.self_attn.v_proj.lora_A.weight`, config({ target_modules: ['q_proj'] })],
    [
      'base_model.model.lm_head.weight',
      edit(qA, (tensor) => [tensor, { ...tensor, name: 'base_model.model.lm_head.weight' }]),
    ],
    [qA, edit(qA, (tensor) => [{ ...tensor, shape: [16, 4] }])],
    [qA, edit(qA, (tensor) => [{ ...tensor, shape: [64] }])],
    [vB, edit(vB, setValue(Number.NaN))],
    [vB, edit(vB, setValue(Number.NEGATIVE_INFINITY))],
    ['adapter_model.safetensors', edit(qA, (tensor) => [{ ...tensor, dtype: 'I32' }])],
    ['adapter_model.safetensors', edit(qA, (tensor) => [{ ...tensor, dtype: 'F99' }])],
    ['adapter_model.safetensors', { rank: 256, ...qv }],
  ])('%s %#', async (param, options) => {
    const error = await read(options).catch((thrown: unknown) => thrown)
    expect(error).toBeInstanceOf(BackendError)
    expect(error).toMatchObject({ code: 'adapter_rejected', param })
    expect((error as BackendError).message).toContain(param)
  })

  const rejectedFolder = async (prepare: (folder: string) => Promise<void>) => {
    const folder = nextFolder()
    await writePeftAdapter(folder, TINY_CONFIG, qv)
    await prepare(folder)
    return readFolder(folder).catch((thrown: unknown) => thrown)
  }

  test('a folder without PEFT files, and a pickle', async () => {
    const folder = nextFolder()
    await mkdir(folder)
    await expect(readFolder(folder)).rejects.toMatchObject({ param: 'adapter_config.json' })
    await writeFile(join(folder, 'adapter_config.json'), '{}')
    await writeFile(join(folder, 'adapter_model.bin'), '')
    await expect(readFolder(folder)).rejects.toMatchObject({
      param: 'adapter_model.safetensors',
      message: expect.stringContaining('pickle'),
    })
  })

  test('JSON that is nested without end', async () => {
    const nested = '{"a":'.repeat(180_000)
    expect(
      await rejectedFolder((folder) => writeFile(join(folder, 'adapter_config.json'), nested)),
    ).toMatchObject({ code: 'adapter_rejected', param: 'adapter_config.json' })
    const header = `{"a":${'['.repeat(900_000)}${']'.repeat(900_000)}}`
    const file = Buffer.alloc(8 + header.length)
    file.writeBigUInt64LE(BigInt(header.length))
    file.write(header, 8)
    const folder = nextFolder()
    await writePeftAdapter(folder, TINY_CONFIG, qv)
    await writeFile(join(folder, 'adapter_model.safetensors'), file)
    const limits = { rootDir, maxFileBytes: 10_000_000 }
    await expect(readAdapterFile(folder, TINY_CONFIG, limits)).rejects.toMatchObject({
      code: 'adapter_rejected',
      param: 'adapter_model.safetensors',
    })
  })

  test('files that are cut, no JSON, or lead out of the directory', async () => {
    expect(
      await rejectedFolder((folder) => truncate(join(folder, 'adapter_model.safetensors'), 500)),
    ).toMatchObject({ code: 'adapter_rejected', param: 'adapter_model.safetensors' })
    expect(
      await rejectedFolder((folder) => writeFile(join(folder, 'adapter_config.json'), '{')),
    ).toMatchObject({ code: 'adapter_rejected', param: 'adapter_config.json' })
    const outside = join(scratch, 'outside')
    await writePeftAdapter(outside, TINY_CONFIG, qv)
    const linked = nextFolder()
    await mkdir(linked)
    for (const name of ['adapter_config.json', 'adapter_model.safetensors']) {
      await symlink(join(outside, name), join(linked, name))
    }
    await expect(readFolder(linked)).rejects.toMatchObject({ param: 'adapter_config.json' })
  })
})

describe('a registration', () => {
  const owner = `0x${'1f'.repeat(20)}`

  test('takes from tallygate.json what the caller leaves out, and at last the folder name', async () => {
    const folder = nextFolder()
    await writePeftAdapter(folder, TINY_CONFIG, {
      manifest: { id: 'poet', owner, datanet: 'poems' },
    })
    expect(await plan(folder)).toEqual({
      id: 'poet',
      owner,
      datanet: 'poems',
      isPinned: false,
      source: { kind: 'folder', folder },
    })
    const named = await plan(folder, { id: 'mine', datanet: 'other' })
    expect(named).toMatchObject({ id: 'mine', owner, datanet: 'other' })
    const bare = nextFolder()
    await writePeftAdapter(bare, TINY_CONFIG)
    expect(await plan(bare)).toMatchObject({
      id: `adapter-${folderCount}`,
      owner: null,
      datanet: null,
    })
  })

  test.each([
    ['..', 'path'],
    ['.', 'path'],
    ['/etc', 'path'],
    ['none', 'path'],
    ['a\0b', 'path'],
    ['out', 'path'],
  ])('of the path %j is rejected', async (path, param) => {
    await symlink(tmpdir(), join(rootDir, 'out')).catch(() => undefined)
    await expect(plan(path)).rejects.toMatchObject({
      code: 'adapter_rejected',
      param,
    })
  })

  test.each([{ owner: '0xabc' }, { id: 'a:b' }, { unknown: 1 }, [], { datanet: '../x' }])(
    'with the manifest %j is rejected',
    async (manifest) => {
      const folder = nextFolder()
      await writePeftAdapter(folder, TINY_CONFIG, { manifest })
      await expect(plan(folder)).rejects.toMatchObject({
        code: 'adapter_rejected',
        param: 'tallygate.json',
      })
    },
  )
})
