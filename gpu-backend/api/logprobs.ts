import type { TokenLogprob } from '../engine/engine-port.ts'
import type { ServedModel } from './served-model.ts'

type Tokens = Pick<ServedModel, 'tokenBytes'>

/** `choices[].logprobs` of chat completions. */
export function wordChatLogprobs(logprobs: readonly TokenLogprob[], model: Tokens) {
  const describe = (tokenId: number, logprob: number) => {
    const bytes = model.tokenBytes(tokenId)
    return { token: spell(bytes), logprob, bytes: [...bytes] }
  }
  const content = logprobs.map(({ tokenId, logprob, top }) => ({
    ...describe(tokenId, logprob),
    top_logprobs: top.map(([id, topLogprob]) => describe(id, topLogprob)),
  }))
  return { content, refusal: null }
}

/** `choices[].logprobs` of completions. */
export interface CompletionLogprobs {
  readonly tokens: string[]
  readonly token_logprobs: (number | null)[]
  readonly top_logprobs: (Readonly<Record<string, number>> | null)[]
  /** Where each token begins in the choice's text, in code points. */
  readonly text_offset: number[]
}

/** Words the log probabilities of one choice; an echoed prompt comes with those of the first event. */
export function createCompletionLogprobs(
  model: Tokens,
  echo: { readonly text: string; readonly tokens: readonly number[] } | null,
): (logprobs: readonly TokenLogprob[]) => CompletionLogprobs {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  let first = echo?.tokens[0]
  let offset = 0
  if (echo !== null) {
    // The echoed text lacks a token that was only written before it.
    const spelled = new TextDecoder().decode(Buffer.concat(echo.tokens.map(model.tokenBytes)))
    offset = countCodePoints(echo.text) - countCodePoints(spelled)
  }
  return (logprobs) => {
    const worded: CompletionLogprobs = {
      tokens: [],
      token_logprobs: [],
      top_logprobs: [],
      text_offset: [],
    }
    const add = (tokenId: number, logprob: number | null, top: Record<string, number> | null) => {
      const bytes = model.tokenBytes(tokenId)
      worded.tokens.push(spell(bytes))
      worded.token_logprobs.push(logprob)
      worded.top_logprobs.push(top)
      worded.text_offset.push(Math.max(0, offset))
      offset += countCodePoints(decoder.decode(bytes, { stream: true }))
    }
    if (first !== undefined) add(first, null, null)
    first = undefined
    for (const { tokenId, logprob, top } of logprobs) {
      const named = [...top, [tokenId, logprob] as const].map(
        ([id, value]) => [spell(model.tokenBytes(id)), value] as const,
      )
      add(tokenId, logprob, Object.fromEntries(named))
    }
    return worded
  }
}

export function joinCompletionLogprobs(parts: readonly CompletionLogprobs[]): CompletionLogprobs {
  return {
    tokens: parts.flatMap((part) => part.tokens),
    token_logprobs: parts.flatMap((part) => part.token_logprobs),
    top_logprobs: parts.flatMap((part) => part.top_logprobs),
    text_offset: parts.flatMap((part) => part.text_offset),
  }
}

/** A token's text; as OpenAI spells it, `bytes:\xe2\x82`, where it is a part of a character. */
function spell(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    const escapes = Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, '0')}`)
    return `bytes:${escapes.join('')}`
  }
}

function countCodePoints(text: string): number {
  return [...text].length
}
