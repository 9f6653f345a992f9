import type { FinishReason, TokenLogprob } from '../engine/engine-port.ts'
import { HERMES_FORM } from '../text/tool-form.ts'
import type { AnswerWording, ChoiceWording } from './answer.ts'
import type { ChoiceEvent } from './generation.ts'
import { createHeldCallParser } from './held-call-parser.ts'
import { wordChatLogprobs } from './logprobs.ts'
import type { ServedModel } from './served-model.ts'
import {
  createToolCallParser,
  type ToolCallDelta,
  type ToolCallParser,
} from './tool-call-parser.ts'

interface ChatWordingOptions {
  readonly model: Pick<ServedModel, 'tokenBytes' | 'toolForm'>
  /** Names of the tools that the answer may call; none: calls are not looked for. */
  readonly callable: ReadonlySet<string>
  readonly wantsLogprobs: boolean
  readonly createCallId: () => string
}

/** How chat completions word their answers. */
export function createChatWording(options: ChatWordingOptions): AnswerWording {
  return {
    idPrefix: 'chatcmpl',
    object: 'chat.completion',
    chunkObject: 'chat.completion.chunk',
    createChoice: () => createChatChoice(options),
  }
}

interface WrittenCall {
  readonly id: string
  readonly name: string
  arguments: string
}

function createChatChoice(options: ChatWordingOptions): ChoiceWording {
  const parser = createParser(options)
  const calls: WrittenCall[] = []
  const told: TokenLogprob[] = []
  let content = ''
  let end: FinishReason | null = null

  const wordLogprobs = (logprobs: readonly TokenLogprob[]) =>
    options.wantsLogprobs ? wordChatLogprobs(logprobs, options.model) : null

  function wordCall({ index, name, arguments: text }: ToolCallDelta) {
    if (name !== null) {
      const id = options.createCallId()
      calls.push({ id, name, arguments: text })
      return { index, id, type: 'function', function: { name, arguments: text } }
    }
    const call = calls[index]
    if (call) call.arguments += text
    return { index, function: { arguments: text } }
  }

  function finishReason() {
    return end === 'stop' && calls.length > 0 ? 'tool_calls' : end
  }

  /** A token that adds nothing yet still has its frame. */
  function piece(event: ChoiceEvent) {
    const parsed = parser.push(event.text)
    end = event.reason
    const held = end === null ? null : parser.flush()
    const text = parsed.content + (held?.content ?? '')
    content += text
    told.push(...event.logprobs)
    const toolCalls = [...parsed.calls, ...(held?.calls ?? [])].map(wordCall)
    const isSilent = text === '' && (toolCalls.length > 0 || end !== null)
    return {
      delta: {
        ...(!isSilent && { content: text }),
        ...(toolCalls.length > 0 && { tool_calls: toolCalls }),
      },
      logprobs: event.logprobs.length > 0 ? wordLogprobs(event.logprobs) : null,
      finish_reason: finishReason(),
    }
  }

  return {
    opening: { delta: { role: 'assistant' }, logprobs: null, finish_reason: null },
    piece,
    whole: () => ({
      message: {
        role: 'assistant',
        content: content === '' && calls.length > 0 ? null : content,
        refusal: null,
        annotations: [],
        ...(calls.length > 0 && {
          tool_calls: calls.map(({ id, ...called }) => ({
            id,
            type: 'function',
            function: called,
          })),
        }),
      },
      logprobs: wordLogprobs(told),
      finish_reason: finishReason(),
    }),
  }
}

/** Calls that begin with a tag of their own are told at once; in other forms they could still be text. */
function createParser({ callable, model }: ChatWordingOptions): ToolCallParser {
  if (callable.size === 0) return NO_CALLS
  const isTagged = model.toolForm === HERMES_FORM
  return isTagged ? createToolCallParser() : createHeldCallParser(model.toolForm, callable)
}

const NO_CALLS: ToolCallParser = {
  push: (content) => ({ content, calls: [] }),
  flush: () => ({ content: '', calls: [] }),
}
