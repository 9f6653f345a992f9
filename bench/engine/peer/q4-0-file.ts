import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { readFile, rename, writeFile } from 'node:fs/promises'
import { dequantise } from '../../../gpu-backend/model/ggml-blocks.ts'
import { parseGguf } from '../../../gpu-backend/model/gguf.ts'
import { encodeWeights } from '../../../test/support/encode-weights.ts'

const TYPE_Q4_0 = 2
const ALIGNMENT = 32

/** Writes the model with its Q4_1 tensors as Q4_0, which llama.cpp repacks for its fastest kernels; once. */
export async function ensureQ40File(modelPath: string, path: string): Promise<void> {
  if (existsSync(path)) return
  await writeFile(`${path}.part`, toQ40(await readFile(modelPath)))
  await rename(`${path}.part`, path)
}

/** The same GGUF file, but for the types, offsets and blocks of its Q4_1 tensors. */
export function toQ40(file: Uint8Array): Uint8Array {
  const tensors = [...parseGguf(file).tensors.values()]
  assert(tensors.length > 0, 'The model has tensors.')
  const dataStart = Math.min(...tensors.map(({ data }) => data.byteOffset)) - file.byteOffset
  const header = Buffer.from(file.subarray(0, dataStart))
  const parts: Uint8Array[] = [header]
  let offset = 0
  for (const { name, type, shape, data } of tensors) {
    const entry = findEntry(header, name) + 4 + 8 * shape.length
    const written = type === 'Q4_1' ? encodeWeights('Q4_0', dequantise(type, data)) : data
    if (type === 'Q4_1') header.writeUInt32LE(TYPE_Q4_0, entry)
    header.writeBigUInt64LE(BigInt(offset), entry + 4)
    const padding = -written.byteLength & (ALIGNMENT - 1)
    parts.push(written, new Uint8Array(padding))
    offset += written.byteLength + padding
  }
  return Buffer.concat(parts)
}

/** Where the tensor's entry goes on after its name: `[dimension count u32][extents u64][type u32][offset u64]`. */
function findEntry(header: Buffer, name: string): number {
  const text = Buffer.from(name)
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.byteLength))
  const at = header.lastIndexOf(Buffer.concat([length, text]))
  assert(at >= 0, `The table names ${name}.`)
  return at + 8 + text.byteLength
}
