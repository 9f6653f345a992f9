import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createStopRule } from '../../../gpu-backend/decode/stop-rule.ts'

const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '😀'), maxLength: 30 })
const stops = fc.array(
  fc.string({ unit: fc.constantFrom('a', 'b', '😀'), minLength: 1, maxLength: 5 }),
  { maxLength: 4 },
)

/** The text before the stop string that is complete first, or null. */
function cutNaively(whole: string, stopStrings: readonly string[]): string | null {
  for (let end = 1; end <= whole.length; end++) {
    const starts = stopStrings
      .filter((stop) => whole.slice(0, end).endsWith(stop))
      .map((stop) => end - stop.length)
    if (starts.length > 0) return whole.slice(0, Math.min(...starts))
  }
  return null
}

/** How much of the end of `seen` could still become a stop string. */
function heldNaively(seen: string, stopStrings: readonly string[]): number {
  const lengths = stopStrings.flatMap((stop) =>
    Array.from({ length: stop.length }, (_, length) => length).filter((length) =>
      seen.endsWith(stop.slice(0, length)),
    ),
  )
  return Math.max(0, ...lengths)
}

test('cuts where a search of the whole text cuts, however it arrives, and holds back no more than it must', () => {
  fc.assert(
    fc.property(fc.array(text, { maxLength: 12 }), stops, (pieces, stopStrings) => {
      const rule = createStopRule(stopStrings)
      const expected = cutNaively(pieces.join(''), stopStrings)
      let seen = ''
      let given = ''
      for (const piece of pieces) {
        const { text: certain, stopped } = rule.push(piece)
        seen += piece
        given += certain
        if (stopped) {
          expect(given).toBe(expected)
          return
        }
        expect(seen.length - given.length).toBe(heldNaively(seen, stopStrings))
      }
      expect(expected).toBeNull()
      expect(given + rule.flush()).toBe(seen)
    }),
    { numRuns: 500 },
  )
})

test('ignores stop strings that no text can contain', () => {
  const rule = createStopRule(['', '\ude00'])
  expect(rule.push('😀')).toEqual({ text: '😀', stopped: false })
})

test('is linear on a stop string that nearly repeats', () => {
  const rule = createStopRule([`${'a'.repeat(50_000)}b`])
  expect(rule.push('a'.repeat(200_000)).text.length).toBe(150_000)
  expect(rule.push('c').text.length).toBe(50_001)
})
