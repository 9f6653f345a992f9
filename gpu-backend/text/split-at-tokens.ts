import { escapePattern } from './escape-pattern.ts'

/** A token that is matched in text as a whole. */
export interface WholeToken {
  readonly id: number
  /** Whether it swallows the blanks before or after it. */
  readonly lstrip?: boolean | undefined
  readonly rstrip?: boolean | undefined
}

/** The text cut at these tokens, by their spellings: their ids, and the texts between them. */
export type SplitAtTokens = (text: string) => readonly (number | string)[]

/** Leftmost, then longest match. */
export function createSplitter(tokens: ReadonlyMap<string, WholeToken>): SplitAtTokens {
  if (tokens.size === 0) return (text) => (text === '' ? [] : [text])
  const longestFirst = [...tokens].sort(([left], [right]) => right.length - left.length)
  const alternatives = longestFirst.map(([content, { lstrip, rstrip }]) => {
    const literal = `(?:${escapePattern(content)})`
    return `${lstrip ? '\\s*' : ''}${literal}${rstrip ? '\\s*' : ''}`
  })
  const idOf = (match: string) => (tokens.get(match) ?? tokens.get(match.trim()))?.id
  const pattern = new RegExp(`(${alternatives.join('|')})`, 'u')
  return (text) =>
    text
      .split(pattern)
      .map((part, index) => (index % 2 === 0 ? part : (idOf(part) ?? part)))
      .filter((part) => part !== '')
}
