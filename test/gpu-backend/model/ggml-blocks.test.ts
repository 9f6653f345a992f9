import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import {
  decodeBlocks,
  dequantise,
  GGML_TYPES,
  type GgmlType,
  hasExactBlocks,
} from '../../../gpu-backend/model/ggml-blocks.ts'

interface BlockVectors {
  readonly cases: readonly { type: GgmlType; data: string; values: string }[]
}

const vectors: BlockVectors = JSON.parse(
  readFileSync(new URL('../../vectors/ggml-blocks.json', import.meta.url), 'utf8'),
)

const bytesOf = (base64: string) => new Uint8Array(Buffer.from(base64, 'base64'))

describe('dequantise', () => {
  it('has a vector for every type that is read', () => {
    expect(vectors.cases.map(({ type }) => type).sort()).toEqual(
      [...GGML_TYPES.values()].map(({ name }) => name).sort(),
    )
  })

  it.each(vectors.cases)('gives the very floats of the reference for $type', (vector) => {
    const expected = new Float32Array(bytesOf(vector.values).buffer)
    // The reference multiplies by d last and so has −0 where we have 0.
    const withoutMinusZero = expected.map((value) => value + 0)
    const values = dequantise(vector.type, bytesOf(vector.data))
    expect(values.map((value) => value + 0)).toEqual(withoutMinusZero)
  })

  it.each(vectors.cases)('reads $type at an odd address', ({ type, data }) => {
    const bytes = bytesOf(data)
    const odd = new Uint8Array(bytes.length + 1).subarray(1)
    odd.set(bytes)
    expect(dequantise(type, odd)).toEqual(dequantise(type, bytes))
  })

  it('keeps as blocks exactly the types that are said to be', () => {
    for (const { type, data } of vectors.cases) {
      expect(decodeBlocks(type, bytesOf(data)).form !== 'f32').toBe(hasExactBlocks(type))
    }
  })
})
