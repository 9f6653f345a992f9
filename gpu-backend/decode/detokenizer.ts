/** The bytes a token stands for; empty for a token without text. A multi-byte character may span several tokens. */
export type TokenBytes = (tokenId: number) => Uint8Array

export interface Detokenizer {
  /**
   * The text that became certain with this token; '' while a character is incomplete. Bytes that
   * can be no character become U+FFFD, as the WHATWG decoder does it. What is incomplete when the
   * answer ends is never given out.
   */
  readonly push: (tokenId: number) => string
}

/** Turns the tokens of one answer into text, whole characters at a time. */
export function createDetokenizer(tokenBytes: TokenBytes): Detokenizer {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  return { push: (tokenId) => decoder.decode(tokenBytes(tokenId), { stream: true }) }
}
