import { BackendError } from '../errors.ts'

/** Characters that are encoded at a time; a cut between two pieces adds a token or two at most. */
const PIECE_LENGTH = 4096

interface PromptLimit {
  readonly contextTokens: number
  readonly encode: (text: string) => readonly number[]
  /** The field that the texts came from. */
  readonly param: string
}

/**
 * Throws `context_length_exceeded` for texts that are far too long, without encoding all of them:
 * megabytes would take the HTTP thread a minute and hold up every stream. Texts of up to twice the
 * context are left to be counted exactly.
 */
export function refuseFarTooLong(
  texts: readonly string[],
  { contextTokens, encode, param }: PromptLimit,
): void {
  const limit = 2 * contextTokens
  const tooLong = () =>
    new BackendError(
      'context_length_exceeded',
      `The model's context is ${contextTokens} tokens, and the prompt has more than that.`,
      { param },
    )
  // Each message takes a token at least, of the template.
  if (texts.length > contextTokens) throw tooLong()
  if (texts.reduce((sum, text) => sum + text.length, 0) <= limit) return
  let tokenCount = 0
  for (const text of texts) {
    for (let start = 0; start < text.length; start += PIECE_LENGTH) {
      tokenCount += encode(text.slice(start, start + PIECE_LENGTH)).length
      if (tokenCount > limit) throw tooLong()
    }
  }
}
