/**
 * The published rule of attribution by verbatim spans, version 1. Its JSON is part of every
 * attributor's digest, so a changed number is a changed digest.
 */
export const SPAN_RULE = {
  rule: 'verbatim-spans',
  version: 1,
  /** A span is at least so many words long … */
  minSpanWords: 3,
  /**
   * … and worth at least so many bits, else it is chance and earns nothing. On the Skerrow Isles
   * right answers have spans of 26 bits and more, and what a question alone suggests has up to 11.
   */
  minSpanBits: 12,
  /** Word runs of this length … */
  boilerplateWords: 4,
  /** … that so many contributors use are nobody's, and are cut from data and answers. */
  boilerplateContributors: 3,
  /** Fractions of a bit that rarity is counted in. */
  unitsPerBit: 256,
  /** The heaviest so many spans count; the most that the wire carries. */
  maxSpans: 256,
  /** The heaviest so many contributors are credited; the most that the wire carries. */
  maxContributors: 64,
} as const
