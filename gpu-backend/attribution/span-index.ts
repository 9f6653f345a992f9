import type { Datum } from './datanet.ts'
import { SPAN_RULE } from './span-rule.ts'
import { sortSuffixes } from './suffix-order.ts'
import { splitWords } from './words.ts'

/** A run of the answer's words that stands word for word in a datum. */
export interface VerbatimSpan {
  readonly firstWord: number
  /** One past the last word. */
  readonly endWord: number
  /** The earliest registered datum that holds the run. */
  readonly datum: Datum
}

export interface SpanIndex {
  /**
   * The maximal verbatim spans of an answer, in its order: none lies within another, and each is
   * at least `minSpanWords` long. They may overlap.
   */
  readonly findSpans: (answer: readonly string[]) => readonly VerbatimSpan[]
  /** What each word of the datanet is worth, in units of rarity; words it does not hold are absent. */
  readonly rarityUnits: ReadonlyMap<string, number>
}

interface Completion {
  readonly datum: Datum
  readonly words: readonly string[]
}

/** A suffix array: all completions as one run of word ids, and its places in sorted order. */
interface SuffixArray {
  /** [W] int32: word ids; what must match nothing is −1 − its place, and so unlike all else. */
  readonly text: Int32Array
  /** [W] int32: index into the completions. */
  readonly completionAt: Int32Array
  /** [S] int32: places of `text` that hold a word, ordered by what follows from there. */
  readonly places: Int32Array
  /** [⌈S / BLOCK⌉] int32: the smallest place of each block of `places`. */
  readonly blockMinima: Int32Array
}

/**
 * Indexes what a datanet teaches, by a suffix array over words. Completions that repeat an earlier
 * one word for word are left out before anything is counted: copying somebody, or oneself, changes
 * no weight. A search costs O(answer · (longest span + log words)).
 */
export function createSpanIndex(data: readonly Datum[]): SpanIndex {
  const completions = listOriginals(data)
  const boilerplate = findBoilerplate(completions)
  const wordIds = new Map<string, number>()
  for (const { words } of completions) {
    for (const word of words) if (!wordIds.has(word)) wordIds.set(word, wordIds.size)
  }
  const suffixes = createSuffixArray(completions, wordIds, boilerplate)
  return {
    rarityUnits: countRarity(completions),
    findSpans: (answer) => {
      const covered = markBoilerplate(answer, boilerplate)
      const query = Int32Array.from(answer, (word, i) =>
        covered[i] === 1 ? NO_WORD : (wordIds.get(word) ?? NO_WORD),
      )
      return findMaximal(suffixes, query).map(({ firstWord, endWord, place }) => ({
        firstWord,
        endWord,
        datum: at(completions, at(suffixes.completionAt, place)).datum,
      }))
    },
  }
}

/** `floor(unitsPerBit · log2(value))`, exact: the bit length of the power, less one. */
export function log2Units(value: number): number {
  return (BigInt(value) ** BigInt(SPAN_RULE.unitsPerBit)).toString(2).length - 1
}

/** In a query: matches nothing, and unlike a cut place of the text, which is −1 − its place. */
const NO_WORD = -0x8000_0000

function listOriginals(data: readonly Datum[]): readonly Completion[] {
  const seen = new Set<string>()
  const originals: Completion[] = []
  for (const datum of data) {
    for (const completion of datum.completions) {
      const words = splitWords(completion).map(({ text }) => text)
      const key = words.join(' ')
      if (words.length === 0 || seen.has(key)) continue
      seen.add(key)
      originals.push({ datum, words })
    }
  }
  return originals
}

/** By how many contributors each key is used, however often each of them uses it. */
function countContributors(
  completions: readonly Completion[],
  listKeys: (words: readonly string[]) => readonly string[],
): ReadonlyMap<string, number> {
  const keysOf = new Map<string, Set<string>>()
  for (const { datum, words } of completions) {
    const keys = keysOf.get(datum.contributor) ?? new Set()
    for (const key of listKeys(words)) keys.add(key)
    keysOf.set(datum.contributor, keys)
  }
  const counts = new Map<string, number>()
  for (const keys of keysOf.values()) {
    for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  return counts
}

/** The plus one gives a datanet of one contributor something to be worth. */
function countRarity(completions: readonly Completion[]): ReadonlyMap<string, number> {
  const contributorCount = new Set(completions.map(({ datum }) => datum.contributor)).size
  const allUnits = log2Units(contributorCount + 1)
  const unitsByCount = Array.from(
    { length: contributorCount },
    (_, i) => allUnits - log2Units(i + 1),
  )
  const counts = countContributors(completions, (words) => words)
  return new Map(Array.from(counts, ([word, count]) => [word, at(unitsByCount, count - 1)]))
}

function listGrams(words: readonly string[]): readonly string[] {
  const size = SPAN_RULE.boilerplateWords
  const count = Math.max(0, words.length - size + 1)
  return Array.from({ length: count }, (_, i) => words.slice(i, i + size).join(' '))
}

function findBoilerplate(completions: readonly Completion[]): ReadonlySet<string> {
  const boilerplate = new Set<string>()
  for (const [gram, count] of countContributors(completions, listGrams)) {
    if (count >= SPAN_RULE.boilerplateContributors) boilerplate.add(gram)
  }
  return boilerplate
}

/** [words] uint8: 1 where a word is part of a boilerplate run. */
function markBoilerplate(words: readonly string[], boilerplate: ReadonlySet<string>): Uint8Array {
  const covered = new Uint8Array(words.length)
  for (const [i, gram] of listGrams(words).entries()) {
    if (boilerplate.has(gram)) covered.fill(1, i, i + SPAN_RULE.boilerplateWords)
  }
  return covered
}

function createSuffixArray(
  completions: readonly Completion[],
  wordIds: ReadonlyMap<string, number>,
  boilerplate: ReadonlySet<string>,
): SuffixArray {
  const wordCount = completions.reduce((sum, { words }) => sum + words.length + 1, 0)
  const text = Int32Array.from({ length: wordCount }, (_, place) => -1 - place)
  const completionAt = new Int32Array(wordCount)
  let place = 0
  for (const [index, { words }] of completions.entries()) {
    const covered = markBoilerplate(words, boilerplate)
    completionAt.fill(index, place, place + words.length)
    for (const [i, word] of words.entries()) {
      if (covered[i] === 0) text[place + i] = wordIds.get(word) ?? NO_WORD
    }
    place += words.length + 1
  }
  const places = sortSuffixes(text).filter((start) => at(text, start) >= 0)
  const blockMinima = Int32Array.from({ length: Math.ceil(places.length / BLOCK) }, (_, block) =>
    places.subarray(block * BLOCK, (block + 1) * BLOCK).reduce((a, b) => Math.min(a, b)),
  )
  return { text, completionAt, places, blockMinima }
}

const BLOCK = 1024

interface Match {
  readonly firstWord: number
  readonly endWord: number
  readonly place: number
}

/** A longest match that ends no later than the one before it lies within that one. */
function findMaximal(suffixes: SuffixArray, query: Int32Array): readonly Match[] {
  const matches: Match[] = []
  let furthestEnd = 0
  for (let start = 0; start < query.length; start += 1) {
    const { rank, length } = findLongest(suffixes, query, start)
    const end = start + length
    if (end <= furthestEnd) continue
    furthestEnd = end
    if (length < SPAN_RULE.minSpanWords) continue
    const place = findFirstPlace(suffixes, query.subarray(start, end), rank)
    matches.push({ firstWord: start, endWord: end, place })
  }
  return matches
}

/** Binary search for the query's rank; what it shares with both bounds is never compared again (Manber and Myers 1993). */
function findLongest(
  { text, places }: SuffixArray,
  query: Int32Array,
  start: number,
): { readonly rank: number; readonly length: number } {
  let low = 0
  let high = places.length
  let lowLength = 0
  let highLength = 0
  let best = { rank: 0, length: 0 }
  while (low < high) {
    const middle = (low + high) >> 1
    const place = at(places, middle)
    let length = Math.min(lowLength, highLength)
    while (start + length < query.length && query[start + length] === text[place + length]) {
      length += 1
    }
    if (length > best.length) best = { rank: middle, length }
    if ((query[start + length] ?? NO_WORD) > at(text, place + length)) {
      low = middle + 1
      lowLength = length
    } else {
      high = middle
      highLength = length
    }
  }
  return best
}

/** The places that hold a span stand together in the order, around `rank`; the smallest was registered first. */
function findFirstPlace(suffixes: SuffixArray, span: Int32Array, rank: number): number {
  const { text, places, blockMinima } = suffixes
  const holdsSpan = (at: number) => span.every((word, i) => text[(places[at] ?? 0) + i] === word)
  const begin = findBorder(0, rank, (at) => !holdsSpan(at))
  const end = findBorder(rank, places.length, holdsSpan)
  let first = at(places, rank)
  for (let next = begin; next < end; next += 1) {
    const isWholeBlock = next % BLOCK === 0 && next + BLOCK <= end
    first = Math.min(first, isWholeBlock ? at(blockMinima, next / BLOCK) : at(places, next))
    if (isWholeBlock) next += BLOCK - 1
  }
  return first
}

/** The first of `from` to `to` that is not before the border. */
function findBorder(from: number, to: number, isBefore: (at: number) => boolean): number {
  let low = from
  let high = to
  while (low < high) {
    const middle = (low + high) >> 1
    if (isBefore(middle)) low = middle + 1
    else high = middle
  }
  return low
}

function at<T>(values: { readonly [index: number]: T }, index: number): T {
  const value = values[index]
  if (value === undefined) throw new RangeError(`no element ${index}`)
  return value
}
