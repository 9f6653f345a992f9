import type { Datum } from './datanet.ts'
import type { SpanIndex, VerbatimSpan } from './span-index.ts'
import { SPAN_RULE } from './span-rule.ts'

/** A span that counts, and what it is worth. */
export interface ScoredSpan {
  readonly firstWord: number
  readonly endWord: number
  readonly datum: Datum
  readonly units: number
}

export interface ContributorWeight {
  readonly contributor: string
  readonly weightPpm: number
}

const MIN_SPAN_UNITS = SPAN_RULE.minSpanBits * SPAN_RULE.unitsPerBit

/**
 * The spans of an answer that earn something, in its order and without overlap: the heaviest takes
 * its words first, the others what is left of theirs, so that no word is paid twice.
 */
export function pickSpans(index: SpanIndex, answer: readonly string[]): readonly ScoredSpan[] {
  const units = Uint32Array.from(answer, (word) => index.rarityUnits.get(word) ?? 0)
  const measure = (span: { readonly firstWord: number; readonly endWord: number }) =>
    units.subarray(span.firstWord, span.endWord).reduce((sum, value) => sum + value, 0)
  const heaviestFirst = index
    .findSpans(answer)
    .map((span) => ({ ...span, units: measure(span) }))
    .filter((span) => span.units >= MIN_SPAN_UNITS)
    .sort((a, b) => b.units - a.units || a.firstWord - b.firstWord)
  const taken = new Uint8Array(answer.length)
  const picked: ScoredSpan[] = []
  for (const span of heaviestFirst) {
    const rest = trimTaken(span, taken)
    const restUnits = measure(rest)
    if (rest.endWord - rest.firstWord < SPAN_RULE.minSpanWords) continue
    if (restUnits < MIN_SPAN_UNITS) continue
    taken.fill(1, rest.firstWord, rest.endWord)
    picked.push({ ...rest, units: restUnits })
    if (picked.length === SPAN_RULE.maxSpans) break
  }
  return picked.sort((a, b) => a.firstWord - b.firstWord)
}

/** Maximal spans do not lie within one another, so that others can only have taken from the ends. */
function trimTaken(span: VerbatimSpan, taken: Uint8Array): VerbatimSpan {
  let { firstWord, endWord } = span
  while (firstWord < endWord && taken[firstWord] === 1) firstWord += 1
  while (firstWord < endWord && taken[endWord - 1] === 1) endWord -= 1
  return { firstWord, endWord, datum: span.datum }
}

/**
 * Splits 1,000,000 ppm over the contributors of the spans by their units, by largest remainder;
 * heaviest first, ties in the order of registration. Nobody for no spans.
 */
export function weighContributors(
  spans: readonly ScoredSpan[],
  registrationOrder: ReadonlyMap<string, number>,
): readonly ContributorWeight[] {
  const unitsOf = new Map<string, number>()
  for (const { datum, units } of spans) {
    unitsOf.set(datum.contributor, (unitsOf.get(datum.contributor) ?? 0) + units)
  }
  const order = (contributor: string) => registrationOrder.get(contributor) ?? 0
  const heaviest = Array.from(unitsOf, ([contributor, units]) => ({ contributor, units }))
    .sort((a, b) => b.units - a.units || order(a.contributor) - order(b.contributor))
    .slice(0, SPAN_RULE.maxContributors)
  const totalUnits = heaviest.reduce((sum, { units }) => sum + units, 0)
  const parts = heaviest.map(({ contributor, units }) => {
    const scaled = units * 1_000_000
    const remainder = scaled % totalUnits
    return { contributor, ppm: (scaled - remainder) / totalUnits, remainder }
  })
  const missingPpm = 1_000_000 - parts.reduce((sum, { ppm }) => sum + ppm, 0)
  const roundedUp = new Set(
    [...parts]
      .sort((a, b) => b.remainder - a.remainder || order(a.contributor) - order(b.contributor))
      .slice(0, missingPpm),
  )
  return parts.map((part) => ({
    contributor: part.contributor,
    weightPpm: part.ppm + (roundedUp.has(part) ? 1 : 0),
  }))
}
