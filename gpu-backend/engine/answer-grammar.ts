/**
 * What the engine needs of a grammar library, handed in by the composition root: the engine itself
 * imports none. `grammar/` implements it.
 */

/** Follows one answer through its grammar. */
export interface AnswerMatcher {
  /**
   * [⌈V/32⌉] bit `id % 32` of word `id / 32` is set for the tokens that may come next; tokens that end the
   * answer are among them only where the grammar may end.
   */
  readonly nextMask: () => Promise<Int32Array>
  /** Takes a token that the last mask allows. */
  readonly accept: (tokenId: number) => void
  readonly dispose: () => void
}

/** Compiles a grammar (EBNF, its rule `root`), or finds it compiled; rejects where it cannot. */
export type OpenGrammar = (grammar: string) => Promise<AnswerMatcher>
