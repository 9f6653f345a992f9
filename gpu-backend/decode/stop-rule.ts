export interface StopRule {
  /** Takes the next piece of the answer; gives the part of the answer that is now certain to stay. */
  readonly push: (text: string) => { readonly text: string; readonly stopped: boolean }
  /** The answer ended otherwise: gives what was held back as a possible beginning of a stop string. */
  readonly flush: () => string
}

/**
 * Cuts one answer before the stop string that is complete first (of several that end at the same
 * place: before the longest), however the text is cut into pieces. Empty strings are ignored, and
 * so are strings with lone surrogates, which no text contains.
 */
export function createStopRule(stops: readonly string[]): StopRule {
  const matchers = stops.filter((stop) => stop !== '' && stop.isWellFormed()).map(createMatcher)
  let held = ''

  function push(text: string) {
    const pending = held + text
    for (let end = held.length; end < pending.length; end++) {
      const matchedLength = advanceAll(matchers, pending.charCodeAt(end))
      if (matchedLength > 0) {
        held = ''
        return { text: pending.slice(0, end + 1 - matchedLength), stopped: true }
      }
    }
    const heldLength = Math.max(0, ...matchers.map((matcher) => matcher.prefixLength()))
    held = pending.slice(pending.length - heldLength)
    return { text: pending.slice(0, pending.length - heldLength), stopped: false }
  }

  function flush(): string {
    const text = held
    held = ''
    return text
  }

  return { push, flush }
}

interface Matcher {
  readonly length: number
  /** Takes one UTF-16 unit; true when the stop string ends with it. */
  readonly advance: (unit: number) => boolean
  /** How many units at the end of the text are a beginning of the stop string. */
  readonly prefixLength: () => number
}

/** The length of the longest stop string that ends with this unit; 0 for none. */
function advanceAll(matchers: readonly Matcher[], unit: number): number {
  let longest = 0
  for (const matcher of matchers) {
    if (matcher.advance(unit)) longest = Math.max(longest, matcher.length)
  }
  return longest
}

/** Knuth, Morris and Pratt's automaton: linear in the text, whatever the stop string repeats. */
function createMatcher(stop: string): Matcher {
  const borders = findBorders(stop)
  let matched = 0
  return {
    length: stop.length,
    advance(unit) {
      while (matched > 0 && stop.charCodeAt(matched) !== unit) matched = borders[matched - 1] ?? 0
      if (stop.charCodeAt(matched) === unit) matched++
      return matched === stop.length
    },
    prefixLength: () => matched,
  }
}

/** For each prefix of `text`: the length of its longest proper prefix that is its suffix too. */
function findBorders(text: string): readonly number[] {
  const borders = [0]
  let length = 0
  for (let end = 1; end < text.length; end++) {
    while (length > 0 && text.charCodeAt(length) !== text.charCodeAt(end)) {
      length = borders[length - 1] ?? 0
    }
    if (text.charCodeAt(length) === text.charCodeAt(end)) length++
    borders.push(length)
  }
  return borders
}
