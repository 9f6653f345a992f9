import { isJsonObject, type JsonObject } from '../../dispatch/answer-parts.ts'
import type { OutputItem, OutputPart } from './response-schema.ts'

type Message = Extract<OutputItem, { type: 'message' }>
type Call = Extract<OutputItem, { type: 'function_call' }>

/** Takes an event's type and fields. */
export type Emit = (type: string, fields: object) => void

export interface OutputWriter {
  /** The items so far. */
  readonly items: readonly OutputItem[]
  /** Takes what a chunk of chat completions adds. */
  readonly read: (delta: JsonObject) => void
  /** Ends all items, the last of them as `status`. */
  readonly finish: (status: 'completed' | 'incomplete') => void
}

/**
 * Writes output items from chat deltas, and says each change as an event. One message is open at a
 * time and ends where a call begins; calls end together, because their deltas may come mixed.
 */
export function createOutputWriter(
  createItemId: (prefix: string) => string,
  emit: Emit,
): OutputWriter {
  const items: OutputItem[] = []
  const calls = new Map<unknown, Call>()
  let message: Message | null = null

  function read({ content, refusal, tool_calls: toolCalls }: JsonObject): void {
    if (typeof content === 'string' && content !== '') addText('output_text', content)
    if (typeof refusal === 'string' && refusal !== '') addText('refusal', refusal)
    if (Array.isArray(toolCalls)) for (const call of toolCalls.filter(isJsonObject)) addCall(call)
  }

  function addText(type: OutputPart['type'], delta: string): void {
    if (message !== null && message.content[0]?.type !== type) closeMessage('completed')
    message ??= openMessage(type)
    const [part] = message.content
    if (part === undefined) throw new Error('An open message has a part.')
    if (part.type === 'refusal') part.refusal += delta
    else part.text += delta
    const logprobs = type === 'output_text' && { logprobs: [] }
    emit(`response.${type}.delta`, { ...placeOf(message), content_index: 0, delta, ...logprobs })
  }

  function openMessage(type: OutputPart['type']): Message {
    const opened = createMessage(createItemId('msg'))
    items.push(opened)
    emit('response.output_item.added', { output_index: items.length - 1, item: opened })
    const part = createPart(type)
    opened.content.push(part)
    emit('response.content_part.added', { ...placeOf(opened), content_index: 0, part })
    return opened
  }

  function closeMessage(status: 'completed' | 'incomplete'): void {
    if (message === null) return
    const place = { ...placeOf(message), content_index: 0 }
    const [part] = message.content
    if (part?.type === 'refusal') {
      emit('response.refusal.done', { ...place, refusal: part.refusal })
    } else if (part !== undefined) {
      emit('response.output_text.done', { ...place, text: part.text, logprobs: [] })
    }
    emit('response.content_part.done', { ...place, part })
    message.status = status
    closeItem(message)
    message = null
  }

  function addCall({ index = calls.size, id, function: called }: JsonObject): void {
    closeMessage('completed')
    const { name, arguments: args } = isJsonObject(called) ? called : {}
    const call = calls.get(index) ?? openCall(index, asText(id), asText(name))
    const delta = asText(args)
    if (delta === '') return
    call.arguments += delta
    emit('response.function_call_arguments.delta', { ...placeOf(call), delta })
  }

  function openCall(index: unknown, callId: string, name: string): Call {
    const id = createItemId('fc')
    const opened: Call = {
      id,
      type: 'function_call',
      call_id: callId || id,
      name,
      arguments: '',
      status: 'in_progress',
    }
    calls.set(index, opened)
    items.push(opened)
    emit('response.output_item.added', { output_index: items.length - 1, item: opened })
    return opened
  }

  function finish(status: 'completed' | 'incomplete'): void {
    if (items.length === 0) message = openMessage('output_text')
    closeMessage(status)
    for (const call of calls.values()) {
      const { name, arguments: args } = call
      emit('response.function_call_arguments.done', { ...placeOf(call), name, arguments: args })
      call.status = call === items.at(-1) ? status : 'completed'
      closeItem(call)
    }
  }

  function closeItem(item: OutputItem): void {
    emit('response.output_item.done', { output_index: items.indexOf(item), item })
  }

  function placeOf(item: OutputItem) {
    return { item_id: item.id, output_index: items.indexOf(item) }
  }

  return { items, read, finish }
}

function createMessage(id: string): Message {
  return { id, type: 'message', role: 'assistant', status: 'in_progress', content: [] }
}

function createPart(type: OutputPart['type']): OutputPart {
  return type === 'refusal'
    ? { type, refusal: '' }
    : { type, text: '', annotations: [], logprobs: [] }
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : ''
}
