import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Datum } from '../../../gpu-backend/attribution/datanet.ts'
import { createSpanIndex, log2Units } from '../../../gpu-backend/attribution/span-index.ts'
import { SPAN_RULE } from '../../../gpu-backend/attribution/span-rule.ts'

const datum = (id: string, contributor: string, completion: string): Datum => ({
  id,
  contributor,
  licence: 'CC0-1.0',
  completions: [completion],
})

/** Few words, so that runs repeat. */
const words = (maxLength: number) =>
  fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1, maxLength })

/** Every run of the answer looked for in every datum, the longest kept. */
function findSpansSlowly(data: readonly Datum[], answer: readonly string[]) {
  const spans = []
  let furthestEnd = 0
  for (let start = 0; start < answer.length; start += 1) {
    for (let end = answer.length; end >= start + SPAN_RULE.minSpanWords; end -= 1) {
      const run = ` ${answer.slice(start, end).join(' ')} `
      const holder = data.find(({ completions }) => ` ${completions[0]} `.includes(run))
      if (holder === undefined) continue
      if (end > furthestEnd) spans.push({ firstWord: start, endWord: end, datum: holder })
      furthestEnd = Math.max(furthestEnd, end)
      break
    }
  }
  return spans
}

describe('createSpanIndex', () => {
  it('finds the maximal spans and their first holder, as a plain search does', () => {
    fc.assert(
      fc.property(
        fc.array(words(12), { minLength: 1, maxLength: 8 }),
        words(20),
        (lines, answer) => {
          const data = lines.map((line, i) => datum(`${i}`, `c${i % 2}`, line.join(' ')))
          expect(createSpanIndex(data).findSpans(answer)).toEqual(findSpansSlowly(data, answer))
        },
      ),
      { seed: 7, numRuns: 500 },
    )
  })

  it('is made, and finds the first holder, of a text that repeats itself without end', () => {
    const chant = (count: number) => 'row the boat '.repeat(count)
    const index = createSpanIndex([
      datum('1', 'ada', chant(100_000)),
      datum('2', 'bob', `${chant(100_000)} ashore`),
    ])
    const spans = index.findSpans(chant(300).trim().split(' '))
    expect(spans).toMatchObject([{ firstWord: 0, endWord: 900, datum: { id: '1' } }])
  })

  it('cuts runs of four words that three contributors use, and nothing less common', () => {
    const common = 'at the end of'
    const index = createSpanIndex([
      datum('1', 'ada', `${common} the copper jetty stands`),
      datum('2', 'bob', `salt comes ${common} every winter`),
      datum('3', 'cleo', `${common} our patience`),
    ])
    const spans = index.findSpans(`${common} the copper jetty stands`.split(' '))
    expect(spans.map(({ firstWord, endWord }) => [firstWord, endWord])).toEqual([[4, 8]])
  })

  it('counts rarity by contributor, not by use', () => {
    const { rarityUnits } = createSpanIndex([
      datum('1', 'ada', 'gull gull gull lamp'),
      datum('2', 'ada', 'gull again'),
      datum('3', 'bob', 'lamp'),
    ])
    expect(rarityUnits.get('gull')).toBe(log2Units(3))
    expect(rarityUnits.get('lamp')).toBe(log2Units(3) - log2Units(2))
  })
})

describe('log2Units', () => {
  it('is the floor of 256 times the binary logarithm', () => {
    expect([1, 2, 3, 6, 1024].map(log2Units)).toEqual([0, 256, 405, 661, 2560])
  })
})
