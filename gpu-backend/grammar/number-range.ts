import { repeat } from './ebnf.ts'

/** Bounds of a number, both included and whole; null: open. */
export interface NumberRange {
  readonly minimum: bigint | null
  readonly maximum: bigint | null
}

/** Where a side is open: the digits that every double holds. */
const LARGEST = 10n ** 15n - 1n

/** EBNF of the whole numbers of the range; null when there are none. */
export function integerRange(range: NumberRange): string | null {
  return signedRange(range, 1n, (low, high) => digits({ low, high, tail: '""', lastTail: '""' }))
}

/** EBNF of the decimal numbers of the range, with up to 15 places; null when there are none. */
export function decimalRange(range: NumberRange): string | null {
  const tail = 'fraction?'
  return signedRange(range, 0n, (low, high) =>
    digits({ low, high, tail, lastTail: '("." "0"{1,15})?' }),
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

interface DigitRange {
  readonly low: bigint
  readonly high: bigint
  /** What follows the digits of a number below `high`, and those of `high` itself. */
  readonly tail: string
  readonly lastTail: string
}

/**
 * The numbers as a tree of their digits, in which no two branches begin alike: XGrammar (0.1.27)
 * lets too much through where alternatives of digits overlap.
 */
function digits(range: DigitRange): string {
  const branches = branch(0n, 1, range)
  if (range.low === 0n) branches.unshift(`"0" ${tailOf(0n, range)}`)
  return branches.join(' | ')
}

/** What may follow the digits `prefix`, the end among it; null: nothing can. */
function follow(prefix: bigint, range: DigitRange): string | null {
  const free = findFreeCounts(prefix, range)
  if (free === 'none') return null
  if (free !== 'mixed') return `${repeat('[0-9]', free.least, free.most)} ${range.tail}`
  const branches = branch(prefix, 0, range)
  const isNumber = prefix >= range.low && prefix <= range.high
  const options = isNumber ? [...branches, tailOf(prefix, range)] : branches
  return options.length === 0 ? null : `(${options.join(' | ')})`
}

/** One option for each stretch of next digits that are followed by the same. */
function branch(prefix: bigint, firstDigit: number, range: DigitRange): string[] {
  const stretches: { from: number; to: number; rest: string }[] = []
  for (let digit = firstDigit; digit <= 9; digit++) {
    const rest = follow(prefix * 10n + BigInt(digit), range)
    const last = stretches.at(-1)
    if (rest === null) continue
    if (last?.rest === rest && last.to === digit - 1) last.to = digit
    else stretches.push({ from: digit, to: digit, rest })
  }
  return stretches.map(({ from, to, rest }) => `[${from}-${to}] ${rest}`)
}

/** How many more digits may follow, if they may be any: then all numbers with so many are in the range. */
function findFreeCounts(prefix: bigint, { low, high, tail, lastTail }: DigitRange) {
  const bodyHigh = tail === lastTail ? high : high - 1n
  let free: { least: number; most: number } | 'none' = 'none'
  for (let count = 0; prefix * 10n ** BigInt(count) <= high; count++) {
    const first = prefix * 10n ** BigInt(count)
    const last = (prefix + 1n) * 10n ** BigInt(count) - 1n
    if (last < low) continue
    if (first < low || last > bodyHigh) return 'mixed'
    free = { least: free === 'none' ? count : free.least, most: count }
  }
  return free
}

function tailOf(number: bigint, { high, tail, lastTail }: DigitRange): string {
  return number === high ? lastTail : tail
}
