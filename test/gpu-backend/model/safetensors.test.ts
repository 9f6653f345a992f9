import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ModelFileError } from '../../../gpu-backend/model/model-file-error.ts'
import { parseSafetensors, toFloat32 } from '../../../gpu-backend/model/safetensors.ts'
import { encodeSafetensors, joinSafetensors } from '../../support/safetensors-file.ts'

const bytesOf = (values: ArrayBufferView) =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

const two = encodeSafetensors(
  [
    { name: 'a', dtype: 'F32', shape: [2, 1], data: bytesOf(Float32Array.of(1.5, -0.25)) },
    { name: 'b', dtype: 'F16', shape: [3], data: bytesOf(Uint16Array.of(0x3c00, 0x8001, 0xfc00)) },
    { name: 'c', dtype: 'BF16', shape: [], data: bytesOf(Uint16Array.of(0xc049)) },
  ],
  { format: 'pt' },
)

describe('parseSafetensors', () => {
  it('gives names, shapes, metadata and views into the file', () => {
    const { tensors, metadata } = parseSafetensors(two)
    expect([...tensors.keys()]).toEqual(['a', 'b', 'c'])
    expect(tensors.get('a')).toMatchObject({ dtype: 'F32', shape: [2, 1] })
    expect(tensors.get('a')?.data.buffer).toBe(two.buffer)
    expect(metadata.get('format')).toBe('pt')
  })

  it('gives F32, F16 and BF16 exactly, also from a file at an odd address', () => {
    const odd = new Uint8Array(two.byteLength + 1).subarray(1)
    odd.set(two)
    const { tensors } = parseSafetensors(odd)
    const values = (name: string) => [...toFloat32(tensors.get(name)!)]
    expect(values('a')).toEqual([1.5, -0.25])
    expect(values('b')).toEqual([1, -(2 ** -24), Number.NEGATIVE_INFINITY])
    expect(values('c')).toEqual([-3.140625])
  })

  it('refuses to read integers as weights', () => {
    const file = encodeSafetensors([
      { name: 'ids', dtype: 'I64', shape: [1], data: new Uint8Array(8) },
    ])
    expect(() => toFloat32(parseSafetensors(file).tensors.get('ids')!)).toThrow(
      'Tensor "ids" is I64',
    )
  })

  const entry = (fields: object = {}) =>
    JSON.stringify({ dtype: 'F32', shape: [1], data_offsets: [0, 4], ...fields })
  const four = new Uint8Array(4)
  it.each([
    ['a file too short for the length', new Uint8Array(7), '7 bytes'],
    ['a header length beyond the limit', bytesOf(BigUint64Array.of(2n ** 63n)), 'at most 25000000'],
    ['a header length beyond the file', bytesOf(BigUint64Array.of(9n)), 'the file ends after 8'],
    ['a header that is no JSON', joinSafetensors('{"a":'), 'not valid JSON'],
    ['a header that is no object', joinSafetensors('[]'), 'not a JSON object'],
    ['metadata that is no text', joinSafetensors('{"__metadata__":{"a":1}}'), '__metadata__'],
    ['an unknown dtype', joinSafetensors(`{"a":${entry({ dtype: 'Q9' })}}`, four), 'dtype "Q9"'],
    ['a missing field', joinSafetensors('{"a":{"dtype":"F32"}}'), 'Tensor "a": the field "shape"'],
    ['a negative extent', joinSafetensors(`{"a":${entry({ shape: [-1] })}}`, four), '"shape.0"'],
    [
      'offsets beyond the data',
      joinSafetensors(`{"a":${entry()}}`, four.subarray(1)),
      '0 to 4 of 3',
    ],
    [
      'offsets in reverse',
      joinSafetensors(`{"a":${entry({ data_offsets: [4, 0] })}}`, four),
      '4 to 0',
    ],
    [
      'a size that is not the shape',
      joinSafetensors(`{"a":${entry({ shape: [2] })}}`, four),
      '8 bytes',
    ],
    ['overlapping tensors', joinSafetensors(`{"a":${entry()},"b":${entry()}}`, four), 'overlap'],
    ['bytes of no tensor', joinSafetensors(`{"a":${entry()}}`, four, four), 'end at byte 4'],
    [
      'a gap',
      joinSafetensors(`{"a":${entry({ data_offsets: [4, 8] })}}`, four, four),
      'there is a gap',
    ],
    [
      'one field twice',
      joinSafetensors('{"a":{"dtype":"F32","dtype":"I32"}}'),
      'The field "dtype"',
    ],
    ['a name without end', joinSafetensors(`{"${'\\n'.repeat(5e6)}":{}}`), 'more than 1000 char'],
    ['a deep header', joinSafetensors('{"a":'.repeat(1e6)), 'nests more than 4'],
    [
      'one name twice',
      joinSafetensors(`{"a":${entry()},"\\u0061" :${entry({ dtype: 'I32' })}}`, four),
      'Tensor "a" stands in the header twice',
    ],
  ])('refuses %s', (_, file, sentence) => {
    expect(() => parseSafetensors(file)).toThrow(ModelFileError)
    expect(() => parseSafetensors(file)).toThrow(sentence)
  })

  it('reads back whatever is written', () => {
    const tensor = fc.record({
      name: fc.string().filter((name) => name !== '__metadata__' && name !== '__proto__'),
      values: fc.array(fc.float({ noNaN: true })),
    })
    fc.assert(
      fc.property(fc.uniqueArray(tensor, { selector: ({ name }) => name }), (tensors) => {
        const file = encodeSafetensors(
          tensors.map(({ name, values }) => ({
            name,
            dtype: 'F32',
            shape: [values.length],
            data: bytesOf(Float32Array.from(values)),
          })),
        )
        const parsed = parseSafetensors(file).tensors
        expect(parsed.size).toBe(tensors.length)
        for (const { name, values } of tensors) {
          expect(toFloat32(parsed.get(name)!)).toEqual(Float32Array.from(values))
        }
      }),
    )
  })

  it('ends every damaged file in a value or a ModelFileError', () => {
    const damage = fc.array(fc.tuple(fc.nat(two.byteLength - 1), fc.nat(255)), { maxLength: 4 })
    fc.assert(
      fc.property(damage, fc.nat(two.byteLength), (bytes, lengthBytes) => {
        const file = two.slice(0, lengthBytes)
        for (const [at, value] of bytes) file[at % Math.max(lengthBytes, 1)] = value
        try {
          for (const tensor of parseSafetensors(file).tensors.values()) {
            expect(tensor.data.byteLength).toBeLessThanOrEqual(file.byteLength)
          }
        } catch (error) {
          expect(error).toBeInstanceOf(ModelFileError)
        }
      }),
      { numRuns: 1000 },
    )
  })
})
