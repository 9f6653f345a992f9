import { type Exchange, type ScriptedModel, usageOf } from './scripted-upstream.ts'

/** Of every answer below. */
const USAGE = {
  ...usageOf(9, 3),
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 1 },
}

/** Two calls of a function, as chat completions have them. */
export const CALLS = ['Rome', 'Oslo'].map((city, index) => ({
  index,
  id: `call_${city}`,
  type: 'function' as const,
  function: { name: 'weather', arguments: JSON.stringify({ city }) },
}))

interface Message {
  readonly content: string
  readonly tool_calls?: typeof CALLS
}

/** Answers a chat with a message, whole or streamed as it was asked for: a word a token, calls in pieces. */
export function say(message: Message, finishReason: string): ScriptedModel['script'] {
  return (exchange) => {
    if (exchange.body.stream) return stream(message, finishReason, exchange)
    const choice = { index: 0, message: { role: 'assistant', ...message } }
    exchange.sendJson(200, {
      choices: [{ ...choice, finish_reason: finishReason }],
      usage: USAGE,
    })
  }
}

function stream(
  { content, tool_calls: calls = [] }: Message,
  finishReason: string,
  { startStream, sendToken, sendFrame, res }: Exchange,
): void {
  const sendDelta = (delta: object, reason: string | null = null) =>
    sendFrame({ choices: [{ index: 0, delta, finish_reason: reason }] })
  startStream()
  for (const word of content.match(/\S+\s*/g) ?? []) sendToken(word)
  for (const { index, id, type, function: called } of calls) {
    const { name, arguments: args } = called
    sendDelta({ tool_calls: [{ index, id, type, function: { name, arguments: '' } }] })
    for (const part of args.match(/.{1,5}/g) ?? [])
      sendDelta({ tool_calls: [{ index, function: { arguments: part } }] })
  }
  sendDelta({}, finishReason)
  sendFrame({ choices: [], usage: USAGE })
  sendFrame('[DONE]')
  res.end()
}
