import { type CharSet, complement, union } from './char-set.ts'

/** A pattern that is no regular expression, or one that is not supported. */
export class PatternError extends Error {
  override readonly name = 'PatternError'
}

export type PatternNode =
  | { readonly kind: 'char'; readonly set: CharSet }
  | { readonly kind: 'sequence'; readonly items: readonly PatternNode[] }
  | { readonly kind: 'choice'; readonly options: readonly PatternNode[] }
  | {
      readonly kind: 'repeat'
      readonly item: PatternNode
      readonly least: number
      /** Null: any number. */
      readonly most: number | null
    }
  | { readonly kind: 'start' | 'end' }

export interface Pattern {
  readonly main: PatternNode
  /** What the text must (not) begin with: look-ahead behind a leading `^`. */
  readonly aheads: readonly { readonly node: PatternNode; readonly isNegated: boolean }[]
}

const MAX_PATTERN_LENGTH = 2_000
const MAX_REPEAT = 1_000
const MAX_GROUP_DEPTH = 50

const range = (from: string, to: string): CharSet => [
  [from.codePointAt(0) ?? 0, to.codePointAt(0) ?? 0],
]
const chars = (text: string): CharSet => union(...Array.from(text, (char) => range(char, char)))

const DIGIT = range('0', '9')
const WORD = union(DIGIT, range('A', 'Z'), range('a', 'z'), chars('_'))
const SPACE = union(
  chars('\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff'),
  range('\u2000', '\u200a'),
)
const CLASS_ESCAPES: ReadonlyMap<string, CharSet> = new Map([
  ['d', DIGIT],
  ['D', complement(DIGIT)],
  ['w', WORD],
  ['W', complement(WORD)],
  ['s', SPACE],
  ['S', complement(SPACE)],
])
const CONTROL_ESCAPES: ReadonlyMap<string, string> = new Map([
  ['t', '\t'],
  ['n', '\n'],
  ['v', '\v'],
  ['f', '\f'],
  ['r', '\r'],
  ['0', '\0'],
])
const DOT = complement(chars('\n\r\u2028\u2029'))

/**
 * Reads an ECMA-262 regular expression with the flag `u`, as JSON Schema has it. Throws
 * {@link PatternError} for what no automaton can keep, by its name.
 */
export function parsePattern(source: string): Pattern {
  if (source.length > MAX_PATTERN_LENGTH) {
    throw new PatternError(`must not be longer than ${MAX_PATTERN_LENGTH} characters`)
  }
  return new PatternReader(source).read()
}

class PatternReader {
  readonly #chars: readonly string[]
  #at = 0
  #depth = 0

  constructor(source: string) {
    this.#chars = Array.from(source)
  }

  read(): Pattern {
    const aheads: Pattern['aheads'][number][] = []
    const isAnchored = this.#take('^')
    while (isAnchored && (this.#sees('(?=') || this.#sees('(?!'))) {
      const isNegated = this.#sees('(?!')
      this.#at += 3
      aheads.push({ node: this.#group(), isNegated })
    }
    if (aheads.length === 0) this.#at = 0
    const main = this.#choice()
    if (this.#at < this.#chars.length) throw new PatternError('has a ) without a (')
    if (aheads.length === 0) return { main, aheads }
    if (main.kind === 'choice') {
      throw new PatternError('look-ahead beside | is supported only with the options in a group')
    }
    return { main: { kind: 'sequence', items: [{ kind: 'start' }, main] }, aheads }
  }

  #choice(): PatternNode {
    const options = [this.#sequence()]
    while (this.#take('|')) options.push(this.#sequence())
    const [only] = options
    return options.length === 1 && only ? only : { kind: 'choice', options }
  }

  #sequence(): PatternNode {
    const items: PatternNode[] = []
    while (this.#at < this.#chars.length && !this.#sees('|') && !this.#sees(')')) {
      items.push(this.#term())
    }
    return { kind: 'sequence', items }
  }

  #term(): PatternNode {
    if (this.#take('^')) return { kind: 'start' }
    if (this.#take('$')) return { kind: 'end' }
    const item = this.#atom()
    const bounds = this.#quantifier()
    if (bounds === null) return item
    this.#take('?') // lazy: which text matches is the same
    if (this.#quantifier() !== null) throw new PatternError('has nothing to repeat')
    return { kind: 'repeat', item, ...bounds }
  }

  #atom(): PatternNode {
    const char = this.#next()
    switch (char) {
      case '(':
        this.#groupHead()
        return this.#group()
      case '[':
        return { kind: 'char', set: this.#class() }
      case '.':
        return { kind: 'char', set: DOT }
      case '\\':
        return { kind: 'char', set: this.#escape(false) }
      case '*':
      case '+':
      case '?':
      case '{':
        throw new PatternError('has nothing to repeat')
      default:
        return { kind: 'char', set: chars(char) }
    }
  }

  #groupHead(): void {
    if (!this.#take('?')) return
    if (this.#take(':')) return
    if (this.#sees('=') || this.#sees('!')) {
      throw new PatternError('look-ahead is supported only behind a ^ that begins the pattern')
    }
    if (this.#sees('<=') || this.#sees('<!')) throw new PatternError('look-behind is not supported')
    const name = /^<[\p{L}_$][\p{L}\p{N}_$]*>/u.exec(this.#chars.slice(this.#at).join(''))?.[0]
    if (name === undefined) throw new PatternError('only (…), (?:…) and (?<name>…) are groups')
    this.#at += Array.from(name).length
  }

  #group(): PatternNode {
    this.#depth++
    if (this.#depth > MAX_GROUP_DEPTH) {
      throw new PatternError(`must not have groups deeper than ${MAX_GROUP_DEPTH}`)
    }
    const node = this.#choice()
    if (!this.#take(')')) throw new PatternError('has a ( without a )')
    this.#depth--
    return node
  }

  #quantifier(): { least: number; most: number | null } | null {
    if (this.#take('*')) return { least: 0, most: null }
    if (this.#take('+')) return { least: 1, most: null }
    if (this.#take('?')) return { least: 0, most: 1 }
    if (!this.#sees('{')) return null
    const text = this.#chars.slice(this.#at, this.#at + 20).join('')
    const [whole, first, comma, last] = /^\{(\d+)(,?)(\d*)\}/.exec(text) ?? []
    if (whole === undefined) throw new PatternError('has a { that is no quantifier')
    this.#at += whole.length
    const least = Number(first)
    const most = comma === '' ? least : last === '' ? null : Number(last)
    if (Math.max(least, most ?? 0) > MAX_REPEAT) {
      throw new PatternError(`must not repeat anything more than ${MAX_REPEAT} times`)
    }
    if (most !== null && most < least) throw new PatternError('has a quantifier out of order')
    return { least, most }
  }

  #class(): CharSet {
    const isNegated = this.#take('^')
    const sets: CharSet[] = []
    while (!this.#take(']')) {
      const low = this.#classAtom()
      if (!this.#sees('-') || this.#sees('-]')) {
        sets.push(low)
        continue
      }
      this.#at++
      sets.push(spanOf(low, this.#classAtom()))
    }
    return isNegated ? complement(union(...sets)) : union(...sets)
  }

  #classAtom(): CharSet {
    const char = this.#next()
    return char === '\\' ? this.#escape(true) : chars(char)
  }

  #escape(isInClass: boolean): CharSet {
    const char = this.#next()
    const set = CLASS_ESCAPES.get(char)
    if (set) return set
    if (char === 'x') return this.#hex(2)
    if (char === 'u') return this.#unicode()
    if (char === 'b' && isInClass) return chars('\b')
    if (char === '0' && /\d/.test(this.#chars[this.#at] ?? '')) {
      throw new PatternError('octal escapes are not supported')
    }
    const control = CONTROL_ESCAPES.get(char)
    if (control !== undefined) return chars(control)
    if (/[1-9k]/.test(char)) throw new PatternError('back-references are not supported')
    if (/[bB]/.test(char)) throw new PatternError('word boundaries are not supported')
    if (/[pP]/.test(char)) throw new PatternError('Unicode properties are not supported')
    if (/\p{L}|\p{N}/u.test(char)) throw new PatternError(`the escape \\${char} is not supported`)
    return chars(char)
  }

  #unicode(): CharSet {
    if (!this.#take('{')) return this.#hex(4)
    const end = this.#chars.indexOf('}', this.#at)
    const set = this.#hex(end - this.#at)
    this.#at++
    return set
  }

  #hex(length: number): CharSet {
    const digits = this.#chars.slice(this.#at, this.#at + length).join('')
    const code = Number.parseInt(digits, 16)
    const isWhole = length > 0 && digits.length === length && /^[\da-f]+$/i.test(digits)
    if (!isWhole || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      throw new PatternError('has an escape that names no character')
    }
    this.#at += length
    return [[code, code]]
  }

  #sees(text: string): boolean {
    return Array.from(text).every((char, i) => this.#chars[this.#at + i] === char)
  }

  #take(char: string): boolean {
    if (!this.#sees(char)) return false
    this.#at++
    return true
  }

  #next(): string {
    const char = this.#chars[this.#at++]
    if (char === undefined) throw new PatternError('ends too early')
    if (!char.isWellFormed()) throw new PatternError('has half a character')
    return char
  }
}

function spanOf(low: CharSet, high: CharSet): CharSet {
  const [[from, fromEnd] = [0, 1]] = low
  const [[to, toEnd] = [0, 1]] = high
  if (low.length !== 1 || high.length !== 1 || from !== fromEnd || to !== toEnd || from > to) {
    throw new PatternError('has a range in a class that is none')
  }
  const parts = [
    [from, Math.min(to, 0xd7ff)],
    [Math.max(from, 0xe000), to],
  ] as const
  return parts.filter(([first, last]) => first <= last)
}
