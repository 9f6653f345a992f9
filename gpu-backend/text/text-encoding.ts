import type { WholeToken } from './split-at-tokens.ts'

/** What the kinds of vocabularies differ in. */
export interface TextEncoding {
  readonly specials: ReadonlyMap<string, WholeToken>
  /** Never makes a control token. `isStart`: whether a prompt begins with the text. */
  readonly encode: (text: string, isStart: boolean) => number[]
}
