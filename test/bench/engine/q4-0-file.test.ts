import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { toQ40 } from '../../../bench/engine/peer/q4-0-file.ts'
import { dequantise } from '../../../gpu-backend/model/ggml-blocks.ts'
import { parseGguf } from '../../../gpu-backend/model/gguf.ts'
import { createTemporaryFolder } from '../../support/temporary-folder.ts'
import { writeTinyGguf } from '../../support/tiny-model.ts'

test('the peer’s file is the same model: Q4_1 tensors as Q4_0 within a step, all else as it was', async () => {
  const folder = await createTemporaryFolder()
  const path = join(folder.path, 'tiny.gguf')
  writeTinyGguf(path, { seed: 3 })
  const before = parseGguf(readFileSync(path))
  const after = parseGguf(toQ40(readFileSync(path)))
  await folder.remove()
  expect(after.metadata).toEqual(before.metadata)
  expect([...after.tensors.keys()]).toEqual([...before.tensors.keys()])
  for (const [name, { type, shape, data }] of before.tensors) {
    const written = after.tensors.get(name)!
    expect(written.shape).toEqual(shape)
    expect(written.type).toBe(type === 'Q4_1' ? 'Q4_0' : type)
    if (type !== 'Q4_1') {
      expect(Buffer.compare(written.data, data), name).toBe(0)
      continue
    }
    const expected = dequantise(type, data)
    const lost = dequantise(written.type, written.data).map((value, i) => {
      const block = expected.subarray(i & ~31, (i & ~31) + 32)
      return Math.abs(value - (expected[i] ?? 0)) / (Math.max(...block.map(Math.abs)) / 8)
    })
    // The side that reaches seven steps only may lose one of them.
    expect(Math.max(...lost), name).toBeLessThanOrEqual(1.01)
  }
})
