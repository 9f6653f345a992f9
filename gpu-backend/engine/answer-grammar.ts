/**
 * What the engine needs of a grammar library, handed in by the composition root: the engine itself
 * imports none. `grammar/` implements it, in a thread of its own: nothing here waits.
 */

/** Follows one answer through its grammar. */
export interface AnswerMatcher {
  /** Has the next mask sought, if it is not yet. */
  readonly seekMask: () => void
  /**
   * [⌈V/32⌉] bit `id % 32` of word `id / 32` is set for the tokens that may come next; tokens that end the
   * answer are among them only where the grammar may end. Null while it is sought; throws where it
   * cannot be found.
   */
  readonly findMask: () => Int32Array | null
  /** Takes a token that the mask allows. */
  readonly accept: (tokenId: number) => void
  readonly dispose: () => void
}

/** Has a grammar (EBNF, its rule `root`) compiled, if it is not yet. */
export type OpenGrammar = (grammar: string) => AnswerMatcher
