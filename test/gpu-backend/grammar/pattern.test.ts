import fc from 'fast-check'
import { beforeAll, describe, expect, test } from 'vitest'
import { createGrammarBuilder } from '../../../gpu-backend/grammar/json-schema.ts'
import { SchemaError } from '../../../gpu-backend/grammar/schema-parts.ts'
import { createGrammarWalk, type GrammarWalk } from '../../support/grammar-walk.ts'

let walk: GrammarWalk

beforeAll(async () => {
  walk = await createGrammarWalk()
})

function grammarOf(keywords: object): string {
  const builder = createGrammarBuilder()
  return builder.build(builder.addSchema({ type: 'string', ...keywords }))
}

/** Characters of every kind of spelling and length in UTF-8, few enough to meet the patterns' own. */
const char = fc.constantFrom(...'aabbcé-"\\\n\u0001\u007fü€\uffff😀 0')
const charInClass = char.map((one) => (/[\\\]^-]/.test(one) ? `\\${one}` : one))
const klass = fc
  .tuple(fc.boolean(), fc.array(charInClass, { minLength: 1, maxLength: 3 }))
  .map(([isNegated, chars]) => `[${isNegated ? '^' : ''}${chars.join('')}]`)
const quantifier = fc.constantFrom('', '', '', '*', '+', '?', '{2}', '{1,3}', '{2,}', '+?')
const { pattern } = fc.letrec<{ pattern: string }>((tie) => ({
  pattern: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.oneof(
      char.map((one) => one.replace(/[\\]/, '\\$&')),
      klass,
      fc.constantFrom('.', '\\d', '\\W', '\\s', '\\u00e9', '[a-c]', '[à-€]', '\\x61', '^', '$'),
    ),
    fc.array(tie('pattern'), { minLength: 1, maxLength: 4 }).map((parts) => parts.join('')),
    fc.tuple(tie('pattern'), tie('pattern')).map((options) => `(?:${options.join('|')})`),
    fc.tuple(tie('pattern'), quantifier).map(([item, many]) => `(${item})${many}`),
    tie('pattern').map((inner) => `^${inner}$`),
  ),
}))
const ahead = fc.tuple(fc.constantFrom('?=', '?!'), pattern, pattern)
const anyPattern = fc.oneof(
  { arbitrary: pattern, weight: 4 },
  { arbitrary: ahead.map(([kind, first, rest]) => `^(${kind}${first})(?:${rest})`), weight: 1 },
)
const limits = fc.record({ minLength: fc.nat(2), maxLength: fc.integer({ min: 2, max: 5 }) })

test('a grammar takes the texts that the pattern matches, and no others', async () => {
  let [yes, no] = [0, 0]
  await fc.assert(
    fc.asyncProperty(
      anyPattern,
      fc.option(limits, { nil: {} }),
      fc.array(fc.array(char, { maxLength: 6 }), { minLength: 5, maxLength: 5 }),
      fc.nat(),
      async (source, keywords: { minLength?: number; maxLength?: number }, texts, seed) => {
        const isMatch = (text: string) => {
          const { minLength = 0, maxLength = Infinity } = keywords
          const { length } = Array.from(text)
          return length >= minLength && length <= maxLength && new RegExp(source, 'u').test(text)
        }
        let grammar: string
        try {
          grammar = grammarOf({ pattern: source, ...keywords })
        } catch (error) {
          expect(error).toBeInstanceOf(SchemaError)
          for (const chars of texts) {
            const isNothing = (error as SchemaError).message.startsWith('allows no text')
            if (isNothing) expect(isMatch(chars.join(''))).toBe(false)
          }
          return
        }
        for (const chars of texts) {
          const text = chars.join('')
          // DEL has one spelling in a class and another in plain JSON.
          const json = JSON.stringify(text).replaceAll('\u007f', '\\u007f')
          const isTaken = await walk.accepts(grammar, json)
          expect(isTaken, `${source} ${json}`).toBe(isMatch(text))
          if (isTaken) yes++
          else no++
        }
        const written = await walk.writeAtRandom(grammar, seed, 40)
        if (written !== null)
          expect(isMatch(JSON.parse(written)), `${source} ${written}`).toBe(true)
      },
    ),
    { numRuns: 150, seed: 11 },
  )
  expect(Math.min(yes, no)).toBeGreaterThan(100)
})

describe('a pattern that cannot be kept is refused by what it has', () => {
  test.each([
    ['a'.repeat(2_001), 'longer than 2000 characters'],
    ['a{1001}', 'more than 1000 times'],
    ['^[ab]{200}$', 'more than 128 states'],
    ['^(((((a{1,99}){1,99}){1,99}){1,99}){1,99})$', 'more than 128 states'],
    [`^${'(a|b)*(c|a)*'.repeat(100)}$`, 'more than 128 states'],
    ['('.repeat(60), 'deeper than 50'],
    ['(a)\\1', 'back-references'],
    ['(?<x>a)\\k<x>', 'back-references'],
    ['a(?=b)', 'look-ahead'],
    ['^(?=b)a|b', 'look-ahead'],
    ['(?<!a)b', 'look-behind'],
    ['\\bword', 'word boundaries'],
    ['\\p{L}', 'Unicode properties'],
    ['(?i)a', 'are groups'],
    ['*', 'nothing to repeat'],
    ['a**', 'nothing to repeat'],
    ['a{2,1}', 'out of order'],
    ['[b-a]', 'range'],
    ['[a', 'too early'],
    ['a)', ') without a ('],
    ['(a', '( without a )'],
    ['\\u{110000}', 'no character'],
    ['\\u{', 'no character'],
    ['$a', 'allows no text'],
  ])('%#', (pattern, reason) => {
    expect(() => grammarOf({ pattern })).toThrow(
      expect.objectContaining({ path: 'pattern', message: expect.stringContaining(reason) }),
    )
  })
})
