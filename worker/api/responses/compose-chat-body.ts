import type { Item, ResponseRequest } from './request-schema.ts'

interface ChatMessage {
  readonly role: string
  readonly content: string | readonly object[] | null
  readonly tool_calls?: object[]
  readonly tool_call_id?: string
}

/** The request as chat completions have it; `items` is the whole conversation. */
export function composeChatBody(request: ResponseRequest, items: readonly Item[]) {
  const { text, tools, tool_choice: choice } = request
  const optional = {
    max_tokens: request.max_output_tokens,
    temperature: request.temperature,
    top_p: request.top_p,
    presence_penalty: request.presence_penalty,
    frequency_penalty: request.frequency_penalty,
    response_format: text?.format && composeFormat(text.format),
    tools: tools?.length ? tools.map(composeTool) : undefined,
    tool_choice:
      typeof choice === 'object' && choice !== null
        ? { type: 'function', function: { name: choice.name } }
        : choice,
    parallel_tool_calls: tools?.length ? request.parallel_tool_calls : undefined,
    user: request.user,
    tallygate: request.tallygate,
  }
  return {
    model: request.model,
    messages: composeMessages(request.instructions ?? null, items),
    ...(request.stream && { stream: true, stream_options: { include_usage: true } }),
    ...Object.fromEntries(Object.entries(optional).filter(([, value]) => value != null)),
  }
}

function composeMessages(instructions: string | null, items: readonly Item[]): ChatMessage[] {
  const messages: ChatMessage[] = []
  if (instructions !== null) messages.push({ role: 'system', content: instructions })
  for (const item of items) {
    switch (item.type) {
      case 'function_call':
        appendCall(messages, item)
        break
      case 'function_call_output':
        messages.push({
          role: 'tool',
          tool_call_id: item.call_id,
          content: composeContent(item.output),
        })
        break
      default:
        messages.push({ role: item.role, content: composeContent(item.content) })
    }
  }
  return messages
}

/** Calls belong to the assistant's message before them, if there is one. */
function appendCall(
  messages: ChatMessage[],
  { call_id: id, name, arguments: args }: Extract<Item, { type: 'function_call' }>,
): void {
  const call = { id, type: 'function', function: { name, arguments: args } }
  const last = messages.at(-1)
  if (last?.role !== 'assistant') {
    messages.push({ role: 'assistant', content: null, tool_calls: [call] })
  } else if (last.tool_calls === undefined) {
    messages.splice(-1, 1, { ...last, tool_calls: [call] })
  } else {
    last.tool_calls.push(call)
  }
}

function composeContent(content: Extract<Item, { role: string }>['content']) {
  if (typeof content === 'string') return content
  const texts = content.map((part) => (part.type === 'refusal' ? part.refusal : part.text))
  const [only] = texts
  if (texts.length === 1 && only !== undefined) return only
  return texts.map((text) => ({ type: 'text', text }))
}

function composeFormat(format: NonNullable<NonNullable<ResponseRequest['text']>['format']>) {
  if (format.type !== 'json_schema') return format
  const { type, ...json_schema } = format
  return { type, json_schema }
}

function composeTool({ type, ...declared }: NonNullable<ResponseRequest['tools']>[number]) {
  return { type, function: declared }
}
