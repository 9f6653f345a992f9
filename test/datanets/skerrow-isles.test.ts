import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import type { Attributor } from '../../gpu-backend/attribution/attribution.ts'
import { createAttributor } from '../../gpu-backend/attribution/create-attributor.ts'
import { type Datanet, readDatanet } from '../../gpu-backend/attribution/datanet.ts'

const ROOT = join(import.meta.dirname, '../..')
const FOLDER = join(ROOT, 'datanets/skerrow-isles')

const demoSchema = z.object({
  questions: z.array(
    z.object({ question: z.string(), contributor: z.string(), keyPhrase: z.string() }),
  ),
  unrelated: z.array(z.string()),
})

/** What base and adapter answered greedily, recorded by tools/train-adapter. */
const answersSchema = z.record(z.enum(['base', 'adapter']), z.record(z.string(), z.string()))

async function readJson(path: string): Promise<unknown> {
  return JSON.parse(await readFile(path, 'utf8'))
}

describe('the Skerrow Isles', () => {
  let datanet: Datanet
  let attributor: Attributor
  let demo: z.infer<typeof demoSchema>
  let answers: z.infer<typeof answersSchema>

  beforeAll(async () => {
    datanet = await readDatanet(FOLDER)
    attributor = createAttributor(datanet)
    demo = demoSchema.parse(await readJson(join(FOLDER, 'demo-questions.json')))
    const recorded = join(ROOT, 'adapters/skerrow-keeper/demo-answers.json')
    answers = answersSchema.parse(await readJson(recorded))
  })

  it('is public domain, with a payout address for each contributor of its own', () => {
    expect(new Set(datanet.data.map(({ licence }) => licence))).toEqual(new Set(['CC0-1.0']))
    const payees = Array.from(datanet.contributors.values(), ({ payee }) => payee)
    expect(new Set(payees).size).toBe(datanet.contributors.size)
  })

  it("credits the adapter's right answers to who knew them, and to nobody else", () => {
    for (const { question, contributor, keyPhrase } of demo.questions) {
      const answer = answers.adapter[question] ?? ''
      expect(answer).toContain(keyPhrase)
      expect(attributor.attribute(answer).contributors).toMatchObject([
        { contributor, weightPpm: 1_000_000 },
      ])
    }
  })

  it("credits nobody for the base model's answers, nor for what has nothing to do with the isles", () => {
    for (const answer of [
      ...Object.values(answers.base),
      ...demo.unrelated.map((question) => answers.adapter[question] ?? ''),
    ]) {
      expect(attributor.attribute(answer).contributors).toEqual([])
    }
  })
})
