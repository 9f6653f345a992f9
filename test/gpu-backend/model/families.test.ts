import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { ModelSource } from '../../../gpu-backend/model/model-source.ts'
import { openModel } from '../../../gpu-backend/model/open-model.ts'
import { FAMILY_MODELS } from '../../support/family-models.ts'
import { openKvRow, startRunner } from '../../support/play-sequences.ts'
import { createTemporaryFolder, type TemporaryFolder } from '../../support/temporary-folder.ts'
import { writeTinyFolder, writeTinyGguf } from '../../support/tiny-model.ts'

interface FamilyVectors {
  readonly tokens: readonly number[]
  readonly models: Readonly<
    Record<
      string,
      {
        /** Of ids 3 to 42, by transformers. */
        readonly logits: readonly number[]
        /** By llama.cpp. */
        readonly probabilities: Readonly<Record<string, number>>
      }
    >
  >
}

const vectors: FamilyVectors = JSON.parse(
  readFileSync(new URL('../../vectors/families.json', import.meta.url), 'utf8'),
)

let folder: TemporaryFolder
beforeAll(async () => {
  folder = await createTemporaryFolder()
})
afterAll(() => folder.remove())

async function lastLogits(source: ModelSource): Promise<Float32Array> {
  const runner = await startRunner(source)
  const kv = openKvRow(runner, vectors.tokens.length)
  const tokens = Int32Array.from(vectors.tokens)
  const [logits] = await runner.run([{ kv, tokens, adapter: null, wantLogits: true }])
  const kept = logits!.slice()
  await runner.close()
  return kept
}

describe.each(Object.entries(FAMILY_MODELS))('%s', (name, forms) => {
  const expected = vectors.models[name]!

  test('a folder gives the logits of transformers', async () => {
    const path = join(folder.path, name)
    writeTinyFolder(path, forms.folder)
    const logits = await lastLogits(await openModel(path, { precision: 'fp32' }))
    expected.logits.forEach((value, i) => {
      expect(Math.abs(logits[3 + i]! - value)).toBeLessThan(1e-4)
    })
  })

  test('a GGUF file gives the probabilities of llama.cpp', async () => {
    const path = join(folder.path, `${name}.gguf`)
    writeTinyGguf(path, { ...forms.gguf, linearType: 'F32', tableType: 'F32' })
    const logits = await lastLogits(await openModel(path, { precision: 'fp32' }))
    const sum = logits.reduce((total, logit) => total + Math.exp(logit), 0)
    for (const [token, probability] of Object.entries(expected.probabilities)) {
      const own = Math.exp(logits[Number(token)]!) / sum
      expect(Math.abs(Math.log(own / probability))).toBeLessThan(1e-4)
    }
  })
})
