/** One word of a text, and where it stands there in UTF-16 units. */
export interface Word {
  /** NFKC, lower case. */
  readonly text: string
  readonly start: number
  readonly end: number
}

/**
 * The words of a text: runs of letters, digits and combining marks. Scripts that do not separate
 * words by blanks or punctuation give one long word for a run.
 */
export function splitWords(text: string): Word[] {
  return Array.from(text.matchAll(/[\p{L}\p{N}\p{M}]+/gu), (match) => ({
    text: match[0].normalize('NFKC').toLowerCase(),
    start: match.index,
    end: match.index + match[0].length,
  }))
}
