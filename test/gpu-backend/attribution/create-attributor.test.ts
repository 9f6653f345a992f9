import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createAttributor } from '../../../gpu-backend/attribution/create-attributor.ts'
import type { Datanet, Datum } from '../../../gpu-backend/attribution/datanet.ts'
import { splitWords } from '../../../gpu-backend/attribution/words.ts'

const NAMES = ['ada', 'bob', 'cleo', 'dov', 'eve']

const payeeOf = (name: string) => `0x${name.charCodeAt(0).toString(16).repeat(20)}` as const

function createDatanet(data: readonly Omit<Datum, 'licence'>[]): Datanet {
  return {
    name: 'net',
    digest: `0x${'11'.repeat(32)}`,
    contributors: new Map(NAMES.map((name) => [name, { payee: payeeOf(name), name }])),
    data: data.map((entry) => ({ ...entry, licence: 'CC0-1.0' })),
  }
}

const FACTS = [
  {
    id: 'lamp',
    contributor: 'ada',
    completions: ['Old Tamsin keeps the green lamp of Harrow Skerry.'],
  },
  {
    id: 'bell',
    contributor: 'bob',
    completions: ['The fog bell is struck nine times before dawn.'],
  },
  {
    id: 'tide',
    contributor: 'cleo',
    completions: ['Spring tides carry the mail raft to Little Quern.'],
  },
]
const MIXED =
  'Old Tamsin keeps the green lamp of Harrow Skerry, and the fog bell is struck nine times before dawn.'

const attribute = (data: readonly Omit<Datum, 'licence'>[], answer: string) =>
  createAttributor(createDatanet(data)).attribute(answer)

/** Sentences of a small vocabulary, each owned by one of the contributors. */
const dataArbitrary = fc.array(
  fc.record({
    contributor: fc.constantFrom(...NAMES),
    words: fc.array(fc.integer({ min: 0, max: 40 }), { minLength: 1, maxLength: 15 }),
  }),
  { minLength: 1, maxLength: 20 },
)
const numberData = (drawn: readonly { contributor: string; words: readonly number[] }[]) =>
  drawn.map(({ contributor, words }, i) => ({
    id: `d${i}`,
    contributor,
    completions: [words.map((word) => `word${word}`).join(' ')],
  }))

describe('createAttributor', () => {
  it('credits whose words an answer uses, and says where', () => {
    const { contributors, spans } = attribute(FACTS, MIXED)
    expect(contributors.map(({ contributor }) => contributor)).toEqual(['ada', 'bob'])
    expect(contributors[0]?.payee).toBe(payeeOf('ada'))
    expect(spans.map(({ start, end, datumId }) => [MIXED.slice(start, end), datumId])).toEqual([
      ['Old Tamsin keeps the green lamp of Harrow Skerry', 'lamp'],
      ['the fog bell is struck nine times before dawn', 'bell'],
    ])
  })

  it('credits nobody for an answer that no datum supports', () => {
    for (const answer of ['', '…', 'The capital of France is Paris.', 'the of the of the']) {
      expect(attribute(FACTS, answer)).toEqual({ contributors: [], spans: [] })
    }
  })

  it('gives weights that add up to a million, and spans that stand verbatim and apart', () => {
    fc.assert(
      fc.property(dataArbitrary, fc.array(fc.nat(19), { maxLength: 6 }), (drawn, picks) => {
        const data = numberData(drawn)
        const answer = picks.map((pick) => data[pick % data.length]?.completions[0]).join(' 🐟, ')
        const { contributors, spans } = attribute(data, answer)
        const total = contributors.reduce((sum, { weightPpm }) => sum + weightPpm, 0)
        expect(total).toBe(contributors.length === 0 ? 0 : 1_000_000)
        expect(contributors.length === 0).toBe(spans.length === 0)
        let lastEnd = 0
        for (const { start, end, datumId, contributor } of spans) {
          const datum = data.find(({ id }) => id === datumId)
          const run = splitWords(answer.slice(start, end)).map(({ text }) => text)
          expect(` ${datum?.completions[0]} `).toContain(` ${run.join(' ')} `)
          expect(datum?.contributor).toBe(contributor)
          expect(contributors.map((credit) => credit.contributor)).toContain(contributor)
          expect(start).toBeGreaterThanOrEqual(lastEnd)
          lastEnd = end
        }
      }),
      { seed: 11, numRuns: 300 },
    )
  })

  it('gives nothing for repeating oneself or copying another, whatever the data', () => {
    fc.assert(
      fc.property(dataArbitrary, fc.nat(19), fc.constantFrom(...NAMES), (drawn, pick, copier) => {
        const data = numberData(drawn)
        const copied = data[pick % data.length]
        const answer = data.map(({ completions }) => completions[0]).join('. ')
        const copies = [1, 2, 3].map((i) => ({
          id: `copy${i}`,
          contributor: copier,
          completions: [`${copied?.completions[0]?.toUpperCase()}!`],
        }))
        expect(attribute([...data, ...copies], answer)).toEqual(attribute(data, answer))
      }),
      { seed: 13, numRuns: 200 },
    )
  })

  it('pays no word twice to who cuts a sentence into overlapping pieces', () => {
    const words = FACTS[0]!.completions[0]!.replace('.', '').split(' ')
    const pieces = [0, 1, 2].map((start) => words.slice(start, start + 7).join(' '))
    const share = (data: readonly Omit<Datum, 'licence'>[]) =>
      attribute(data, MIXED).contributors.find(({ contributor }) => contributor === 'ada')!
        .weightPpm
    const cut = { id: 'lamp', contributor: 'ada', completions: pieces }
    expect(share([cut, ...FACTS.slice(1)])).toBeLessThanOrEqual(share(FACTS))
  })

  it('serves a datanet of a single contributor', () => {
    const completion =
      'Old Tamsin keeps the green lamp of Harrow Skerry and never sleeps before dawn.'
    const { contributors } = attribute([{ ...FACTS[0]!, completions: [completion] }], completion)
    expect(contributors).toEqual([
      { contributor: 'ada', payee: payeeOf('ada'), weightPpm: 1_000_000 },
    ])
  })

  it('names the data it was made from in its digest', () => {
    const net = createDatanet(FACTS)
    const other = createAttributor({ ...net, digest: `0x${'22'.repeat(32)}` })
    expect(createAttributor(net).digest).not.toBe(other.digest)
  })
})
