import type { FinishReason } from '../engine/engine-port.ts'
import type { ChatPrompt } from '../text/chat-template.ts'
import type { AnswerWording, ChoiceWording } from './answer.ts'
import type { ChoiceEvent } from './generation.ts'
import {
  type CompletionLogprobs,
  createCompletionLogprobs,
  joinCompletionLogprobs,
} from './logprobs.ts'
import type { ServedModel } from './served-model.ts'

interface CompletionWordingOptions {
  readonly model: Pick<ServedModel, 'tokenBytes'>
  readonly promptOf: (index: number) => ChatPrompt | undefined
  readonly isEchoed: boolean
  readonly wantsLogprobs: boolean
}

/** How completions word their answers: an echoed prompt goes out with the first event of its choice, in the same frame. */
export function createCompletionWording(options: CompletionWordingOptions): AnswerWording {
  return {
    idPrefix: 'cmpl',
    object: 'text_completion',
    chunkObject: 'text_completion',
    createChoice: (index) => createCompletionChoice(options, index),
  }
}

function createCompletionChoice(options: CompletionWordingOptions, index: number): ChoiceWording {
  const echo = options.isEchoed ? (options.promptOf(index) ?? null) : null
  const wordLogprobs = createCompletionLogprobs(options.model, echo)
  const told: CompletionLogprobs[] = []
  let whole = ''
  let isFirst = true
  let end: FinishReason | null = null

  function piece(event: ChoiceEvent) {
    const text = isFirst && echo ? echo.text + event.text : event.text
    const logprobs = options.wantsLogprobs ? wordLogprobs(event.logprobs) : null
    if (logprobs) told.push(logprobs)
    whole += text
    isFirst = false
    end = event.reason
    return { text, logprobs: logprobs?.tokens.length ? logprobs : null, finish_reason: end }
  }

  return {
    opening: null,
    piece,
    whole: () => ({
      text: whole,
      logprobs: options.wantsLogprobs ? joinCompletionLogprobs(told) : null,
      finish_reason: end,
    }),
  }
}
