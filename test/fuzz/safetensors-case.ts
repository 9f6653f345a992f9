import { expect } from 'vitest'
import { ModelFileError } from '../../gpu-backend/model/model-file-error.ts'
import { parseSafetensors, toFloat32 } from '../../gpu-backend/model/safetensors.ts'
import { encodeWeights } from '../support/encode-weights.ts'
import { encodeSafetensors, joinSafetensors } from '../support/safetensors-file.ts'
import { type Chance, damageBytes, oddValue } from './damage.ts'

const DTYPES = ['F32', 'F16', 'BF16'] as const
const NAMES = [
  'a',
  'model.layers.0.q',
  'ü',
  '\u{1f98a}',
  'a"b',
  'a\\',
  '',
  'x'.repeat(200),
  'toString',
]

/** One file, whole or damaged: read exactly as it was written, or refused. */
export function playSafetensors(chance: Chance): 'read' | 'refused' {
  const tensors = writeTensors(chance)
  const file = encodeSafetensors(tensors, chance.pick([undefined, { format: 'pt' }]))
  switch (chance.between(0, 3)) {
    case 0: {
      const parsed = parseSafetensors(file).tensors
      expect(
        [...parsed.values()].map(({ name, dtype, shape }) => ({ name, dtype, shape })),
      ).toEqual(
        expect.arrayContaining(tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape }))),
      )
      expect(parsed.size).toBe(tensors.length)
      for (const { name, data } of tensors) expect(parsed.get(name)?.data).toEqual(data)
      return 'read'
    }
    case 1:
      return read(damageBytes(chance, file))
    case 2:
      return read(damageHeader(chance, file))
    default:
      return read(damageField(chance, file))
  }
}

function writeTensors({ between, pick }: Chance) {
  const names = new Set(Array.from({ length: between(0, 5) }, () => pick(NAMES)))
  return [...names].map((name) => {
    const shape = Array.from({ length: between(0, 3) }, () => between(0, 4))
    const count = shape.reduce((product, extent) => product * extent, 1)
    const dtype = pick(DTYPES)
    const values = Float32Array.from({ length: count }, () =>
      pick([0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e-40]),
    )
    return { name, dtype, shape, data: encodeWeights(dtype, values) }
  })
}

/** Whatever is read is what an independent reading of the header says. */
function read(file: Uint8Array): 'read' | 'refused' {
  try {
    const { tensors } = parseSafetensors(file)
    const headerBytes = new DataView(file.buffer, file.byteOffset).getUint32(0, true)
    const header = JSON.parse(Buffer.from(file.subarray(8, 8 + headerBytes)).toString())
    delete header.__metadata__
    expect([...tensors.keys()].sort()).toEqual(Object.keys(header).sort())
    let covered = 8 + headerBytes
    for (const tensor of tensors.values()) {
      const { dtype, shape, data_offsets } = header[tensor.name]
      expect(tensor).toMatchObject({ dtype, shape })
      const [begin, end] = data_offsets.map((offset: number) => 8 + headerBytes + offset)
      expect(Buffer.compare(tensor.data, file.subarray(begin, end))).toBe(0)
      covered += tensor.data.byteLength
      if (dtype === 'F32') expect(toFloat32(tensor)).toHaveLength(tensor.data.byteLength / 4)
    }
    expect(covered).toBe(file.byteLength)
    return 'read'
  } catch (error) {
    expectRefusal(error)
    return 'refused'
  }
}

/** Says what is wrong, in a sentence of bounded length. */
export function expectRefusal(error: unknown): void {
  if (!(error instanceof ModelFileError)) throw error
  expect(error.message).toMatch(/^[A-Z"].*["\d A-Z].*\.$/s)
  expect(error.message.length).toBeLessThan(3_000)
}

function splitFile(file: Uint8Array) {
  const headerBytes = new DataView(file.buffer).getUint32(0, true)
  const header = Buffer.from(file.subarray(8, 8 + headerBytes)).toString()
  return { header, data: file.subarray(8 + headerBytes) }
}

/** A header whose text is damaged, at its true length. */
function damageHeader(chance: Chance, file: Uint8Array): Uint8Array {
  const { header, data } = splitFile(file)
  const damaged = chance.pick([
    () => Buffer.from(damageBytes(chance, Buffer.from(header))).toString('latin1'),
    () => `${header}   `,
    () => header.replace('{', '{"a":1,"a":2,'),
    () => header.replace('"dtype"', '"dtype":"I8","dtype"'),
    () => header.replaceAll(/\[0,/g, '[-1,'),
    () => `${'['.repeat(5_000)}${']'.repeat(5_000)}`,
    () => header.replace('"shape":[', '"shape":[99999999999,'),
    () => header.replace(/\d+\]\}/, '1e3]}'),
    () => header.replace('"F32"', '"F8_E4M3"'),
  ])()
  return joinSafetensors(damaged, data)
}

/** A header in which one field holds something else. */
function damageField(chance: Chance, file: Uint8Array): Uint8Array {
  const { header, data } = splitFile(file)
  const fields = JSON.parse(header)
  const names = Object.keys(fields)
  if (names.length === 0) return file
  const name = chance.pick(names)
  const field = chance.pick(['dtype', 'shape', 'data_offsets', 'extra', 'whole'])
  if (field === 'whole' || typeof fields[name] !== 'object') fields[name] = oddValue(chance)
  else fields[name] = { ...fields[name], [field]: oddValue(chance) }
  return joinSafetensors(JSON.stringify(fields), data)
}
