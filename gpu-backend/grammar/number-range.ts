import { repeat } from './ebnf.ts'

/** Bounds of a number, both included and whole; null: open. */
export interface NumberRange {
  readonly minimum: bigint | null
  readonly maximum: bigint | null
}

/** Where a side is open: the digits that every double holds. */
const LARGEST = 10n ** 15n - 1n

/** EBNF of the whole numbers of the range; null when there are none. */
export function integerRange({ minimum, maximum }: NumberRange): string | null {
  return signedRange({ minimum, maximum }, 1n, wholeNumbers)
}

/** EBNF of the decimal numbers of the range, with up to 15 places; null when there are none. */
export function decimalRange({ minimum, maximum }: NumberRange): string | null {
  return signedRange({ minimum, maximum }, 0n, (low, high) =>
    low === high
      ? `(${wholeNumbers(low, high)})`
      : `(${wholeNumbers(low, high - 1n)}) fraction? | ${wholeNumbers(high, high)} ("." "0"{1,15})?`,
  )
}

/**
 * Magnitudes below and above zero apart: `magnitudes` writes those from `low` to `high`, both ≥ 0;
 * `leastNegative` is the least that has numbers below zero.
 */
function signedRange(
  { minimum, maximum }: NumberRange,
  leastNegative: bigint,
  magnitudes: (low: bigint, high: bigint) => string,
): string | null {
  const low = minimum ?? (maximum !== null && maximum < -LARGEST ? maximum : -LARGEST)
  const high = maximum ?? (minimum !== null && minimum > LARGEST ? minimum : LARGEST)
  if (low > high) return null
  const parts: string[] = []
  if (low < 0n) parts.push(`"-" (${magnitudes(high < 0n ? -high : leastNegative, -low)})`)
  if (high >= 0n) parts.push(magnitudes(low > 0n ? low : 0n, high))
  return parts.map((part) => `(${part})`).join(' | ')
}

/** Numbers of the same length at a time. */
function wholeNumbers(low: bigint, high: bigint): string {
  const parts: string[] = []
  for (let start = low; start <= high; ) {
    const lengthEnd = 10n ** BigInt(start.toString().length) - 1n
    const end = lengthEnd < high ? lengthEnd : high
    parts.push(sameLength(start.toString(), end.toString()))
    start = end + 1n
  }
  return parts.join(' | ')
}

/** Digits from `low` to `high`, which are as many. */
function sameLength(low: string, high: string): string {
  const [first = '', last = ''] = [low.charAt(0), high.charAt(0)]
  const [lowRest, highRest] = [low.slice(1), high.slice(1)]
  if (low === '') return '""'
  if (isAll(lowRest, '0') && isAll(highRest, '9')) return `${digit(first, last)} ${any(lowRest)}`
  if (first === last) return `"${first}" (${sameLength(lowRest, highRest)})`
  const parts = [`"${first}" (${sameLength(lowRest, '9'.repeat(lowRest.length))})`]
  const [from, to] = [Number(first) + 1, Number(last) - 1]
  if (from <= to) parts.push(`${digit(String(from), String(to))} ${any(lowRest)}`)
  parts.push(`"${last}" (${sameLength('0'.repeat(highRest.length), highRest)})`)
  return parts.join(' | ')
}

function isAll(digits: string, digit: string): boolean {
  return digits === digit.repeat(digits.length)
}

function digit(from: string, to: string): string {
  return `[${from}-${to}]`
}

function any(rest: string): string {
  return repeat('[0-9]', rest.length, rest.length)
}
