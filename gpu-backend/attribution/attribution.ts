import type { Address, Digest } from '../../protocol/digest.ts'

/** What scores an answer against the datanet of the adapter that gave it. */
export interface Attributor {
  /** SHA-256 that names the index and the rule, as the usage leaf commits to it. */
  readonly digest: Digest
  readonly attribute: (answer: string) => Attribution
}

export interface Attribution {
  /** Weights are integers and add up to 1,000,000; empty when nobody's data supports the answer. */
  readonly contributors: readonly {
    readonly contributor: string
    readonly payee: Address
    readonly weightPpm: number
  }[]
  /** Maximal verbatim spans, offsets in UTF-16 units of the answer. */
  readonly spans: readonly {
    readonly start: number
    readonly end: number
    readonly datumId: string
    readonly contributor: string
  }[]
}
