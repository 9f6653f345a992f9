import { CHAR, literal } from './ebnf.ts'

/** Code points as ranges, both ends included, in order and apart from each other; no surrogates. */
export type CharSet = readonly (readonly [number, number])[]

/** All that a string of JSON can hold. */
export const ALL_CHARS: CharSet = [
  [0, 0xd7ff],
  [0xe000, 0x10ffff],
]

export function union(...sets: readonly CharSet[]): CharSet {
  const merged: [number, number][] = []
  for (const [low, high] of sets.flat().sort((a, b) => a[0] - b[0])) {
    const last = merged.at(-1)
    if (last && low <= last[1] + 1) last[1] = Math.max(last[1], high)
    else merged.push([low, high])
  }
  return merged
}

export function complement(set: CharSet): CharSet {
  const rest: (readonly [number, number])[] = []
  let next = 0
  for (const [low, high] of [...union(set, [[0xd800, 0xdfff]]), [0x110000, 0x110000]] as const) {
    if (next < low) rest.push([next, low - 1])
    next = high + 1
  }
  return rest
}

/**
 * EBNF of one character of the set as JSON writes it inside a string: options of which no two match
 * the same text. Control characters have one spelling, unless all of them are in the set.
 */
export function charOptions(set: CharSet): readonly string[] {
  if (isAll(set, ALL_CHARS)) return [`(${CHAR})`]
  const has = (code: number) => set.some(([low, high]) => code >= low && code <= high)
  const ascii = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => from + i).filter(has)
  const plain = ascii(0x20, 0x7e).filter((code) => code !== 0x22 && code !== 0x5c)
  const controls = ascii(0, 0x1f)
  const escaped = [0x22, 0x5c, 0x7f].filter(has)
  return [
    ...(plain.length > 0 ? [byteClass(toRanges(plain))] : []),
    ...(controls.length === 32 ? ['control'] : controls.map(escapedChar)),
    ...escaped.map(escapedChar),
    ...wideOptions(
      set.flatMap(([low, high]) => (high < 0x80 ? [] : [[Math.max(low, 0x80), high]])),
    ),
  ]
}

function escapedChar(code: number): string {
  const json = JSON.stringify(String.fromCharCode(code)).slice(1, -1)
  return literal(json.startsWith('\\') ? json : `\\u${code.toString(16).padStart(4, '0')}`)
}

function isAll(set: CharSet, all: CharSet): boolean {
  return JSON.stringify(set) === JSON.stringify(all)
}

function toRanges(codes: readonly number[]): CharSet {
  return union(codes.map((code) => [code, code] as const))
}

function wideOptions(ranges: readonly number[][]): readonly string[] {
  const wide = union(ranges.map(([low = 0, high = 0]) => [low, high] as const))
  if (isAll(wide, [[0x80, 0xd7ff], ALL_CHARS[1] ?? [0, 0]])) return ['utf8']
  return wide.flatMap(([low, high]) => splitByLength(low, high).flatMap(utf8Ranges))
}

function splitByLength(low: number, high: number): readonly (readonly [number, number])[] {
  const limits = [0x7f, 0x7ff, 0xffff, 0x10ffff]
  return limits.slice(1).flatMap((limit, i) => {
    const part = [Math.max(low, (limits[i] ?? 0) + 1), Math.min(high, limit)] as const
    return part[0] <= part[1] ? [part] : []
  })
}

/** Sequences of byte classes for code points whose UTF-8 has one length. */
function utf8Ranges([low, high]: readonly [number, number]): readonly string[] {
  const [first, last] = [low, high].map((code) => [...Buffer.from(String.fromCodePoint(code))])
  return byteSequences(first ?? [], last ?? [])
}

function byteSequences(low: readonly number[], high: readonly number[]): readonly string[] {
  const [first = 0, ...lowRest] = low
  const [last = 0, ...highRest] = high
  if (lowRest.length === 0) return [byteClass([[first, last]])]
  const least = lowRest.map(() => 0x80)
  const most = lowRest.map(() => 0xbf)
  const after = (from: number, to: number, rests: readonly string[]) =>
    rests.map((rest) => `${byteClass([[from, to]])} ${rest}`)
  if (first === last) return after(first, last, byteSequences(lowRest, highRest))
  const isWholeLow = lowRest.every((byte) => byte === 0x80)
  const isWholeHigh = highRest.every((byte) => byte === 0xbf)
  const from = isWholeLow ? first : first + 1
  const to = isWholeHigh ? last : last - 1
  return [
    ...(isWholeLow ? [] : after(first, first, byteSequences(lowRest, most))),
    ...(from <= to ? after(from, to, byteSequences(least, most)) : []),
    ...(isWholeHigh ? [] : after(last, last, byteSequences(least, highRest))),
  ]
}

/** A class of one is written twice: XGrammar (0.1.27) would read `[\xc3]` as a character, not as a byte. */
function byteClass(ranges: CharSet): string {
  const hex = (byte: number) => `\\x${byte.toString(16).padStart(2, '0')}`
  const parts = ranges.map(([low, high]) => (low === high ? hex(low) : `${hex(low)}-${hex(high)}`))
  const [only] = ranges
  const isSingle = ranges.length === 1 && only?.[0] === only?.[1]
  return `[${parts.join('')}${isSingle ? parts[0] : ''}]`
}
