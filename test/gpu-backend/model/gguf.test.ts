import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { parseGguf } from '../../../gpu-backend/model/gguf.ts'
import { ModelFileError } from '../../../gpu-backend/model/model-file-error.ts'
import { encodeGguf, type GgufTensorToWrite } from '../../support/gguf-file.ts'

const four: GgufTensorToWrite = { name: 'a', shape: [1], type: 0, data: new Uint8Array(4) }
const file = encodeGguf(
  {
    'general.architecture': { text: 'llama' },
    count: { u32: 7 },
    epsilon: { f32: 0.5 },
    yes: { bool: true },
    tokens: { texts: ['é', ''] },
    types: { i32s: [-1, 3] },
  },
  [
    { name: 'norm', shape: [3], type: 0, data: new Uint8Array(Float32Array.of(1, 2, 3).buffer) },
    { name: 'table', shape: [2, 32], type: 8, data: new Uint8Array(68).fill(9) },
  ],
)

/** A copy with `value` written at the first place where `text` stands, `offset` bytes on. */
function patch(text: string, offset: number, value: Uint8Array | readonly number[]): Uint8Array {
  const copy = Uint8Array.from(file)
  copy.set(value, Buffer.from(file).indexOf(text) + offset)
  return copy
}

describe('parseGguf', () => {
  it.each([2, 3])('gives typed metadata and views of the tensors of version %i', (version) => {
    const parsed = parseGguf(Uint8Array.from(file).fill(version, 4, 5))
    expect([...parsed.metadata.values()]).toEqual(['llama', 7, 0.5, true, ['é', ''], [-1, 3]])
    expect(parsed.tensors.get('norm')).toMatchObject({ type: 'F32', shape: [3] })
    const table = parsed.tensors.get('table')
    expect(table).toMatchObject({ type: 'Q8_0', shape: [2, 32] })
    expect(table?.data).toEqual(new Uint8Array(68).fill(9))
  })

  it.each([
    ['another magic number', Uint8Array.from(file).fill(0, 0, 1), 'begin with "GGUF"'],
    ['version 1', Uint8Array.from(file).fill(1, 4, 5), 'GGUF version is 1'],
    ['big-endian files', Uint8Array.from(file).fill(0, 4, 5).fill(3, 7, 8), 'version is 50331648'],
    ['a count beyond the file', Uint8Array.from(file).fill(255, 8, 16), 'the tensor count'],
    ['an unknown value type', patch('count', 5, [77]), 'key "count" has the unknown value type 77'],
    ['text that is not UTF-8', patch('llama', 0, [255]), 'The text of general.architecture'],
    ['a text longer than the file', patch('llama', -8, [255, 255]), 'in general.architecture'],
    [
      'a name without end',
      encodeGguf({ ['k'.repeat(1001)]: { u32: 1 } }, []),
      'metadata entry 0 has 1001 bytes; at most 1000',
    ],
    ['an unknown tensor type', patch('norm', 16, [99]), 'Tensor "norm" has the type 99'],
    ['too many dimensions', patch('norm', 4, [5]), 'Tensor "norm" has 5 dimensions'],
    ['rows that are no whole blocks', patch('table', 9, [31]), 'Tensor "table" has rows of 31'],
    ['data beyond the file', patch('table', 17, [200]), 'Tensor "table" lies at bytes 32 to 6832'],
    ['an offset that is not aligned', patch('table', 29, [33]), '"table" is not aligned'],
    ['overlapping tensors', patch('table', 29, [0]), '"table" overlaps'],
    ['one tensor twice', encodeGguf({}, [four, four]), 'Tensor "a" stands in the table twice'],
    [
      'an alignment of zero',
      encodeGguf({ 'general.alignment': { u32: 0 } }, [four]),
      'general.alignment',
    ],
    ['a file that ends in the metadata', file.subarray(0, 60), 'The file ends at byte 60'],
  ])('refuses %s', (_, damaged, sentence) => {
    expect(() => parseGguf(damaged)).toThrow(ModelFileError)
    expect(() => parseGguf(damaged)).toThrow(sentence)
  })

  it('ends every damaged file in a value or a ModelFileError', () => {
    const damage = fc.array(fc.tuple(fc.nat(file.byteLength - 1), fc.nat(255)), { maxLength: 4 })
    fc.assert(
      fc.property(damage, fc.nat(file.byteLength), (bytes, lengthBytes) => {
        const damaged = file.slice(0, lengthBytes)
        for (const [at, value] of bytes) damaged[at % Math.max(lengthBytes, 1)] = value
        try {
          for (const { data } of parseGguf(damaged).tensors.values()) {
            expect(data.byteLength).toBeLessThanOrEqual(damaged.byteLength)
          }
        } catch (error) {
          expect(error).toBeInstanceOf(ModelFileError)
        }
      }),
      { numRuns: 1000 },
    )
  })
})
