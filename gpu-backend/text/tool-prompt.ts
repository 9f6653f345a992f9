import type { ChatMessage, ToolDefinition } from './chat-message.ts'
import { TOOL_CALL_CLOSE, TOOL_CALL_OPEN } from './tool-form.ts'

/**
 * The conversation for a template that knows no tools (docs/output.md): they are described at the end
 * of the system prompt, calls stand in the assistant's text, and results in what the user says.
 */
export function describeTools(
  messages: readonly ChatMessage[],
  tools: readonly ToolDefinition[],
): readonly ChatMessage[] {
  const conversation = joinResults(messages.map(writeCalls))
  if (tools.length === 0) return conversation
  const [first, ...rest] = conversation
  const description = writeToolPrompt(tools)
  if (first?.role !== 'system') return [{ role: 'system', content: description }, ...conversation]
  return [{ role: 'system', content: `${first.content}\n\n${description}` }, ...rest]
}

function writeToolPrompt(tools: readonly ToolDefinition[]): string {
  return `# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
${tools.map((tool) => JSON.stringify(tool)).join('\n')}
</tools>

For each function call, return a json object with function name and arguments within ${TOOL_CALL_OPEN}${TOOL_CALL_CLOSE} XML tags:
${TOOL_CALL_OPEN}
{"name": <function-name>, "arguments": <args-json-object>}
${TOOL_CALL_CLOSE}`
}

function writeCalls({ role, content, toolCalls = [] }: ChatMessage): ChatMessage {
  const calls = toolCalls.map(
    ({ name, arguments: values }) =>
      `${TOOL_CALL_OPEN}\n{"name": ${JSON.stringify(name)}, "arguments": ${JSON.stringify(values)}}\n${TOOL_CALL_CLOSE}`,
  )
  return { role, content: [...(content === '' ? [] : [content]), ...calls].join('\n') }
}

/** Results that follow each other are one message of the user: templates may want roles to take turns. */
function joinResults(messages: readonly ChatMessage[]): readonly ChatMessage[] {
  const joined: ChatMessage[] = []
  messages.forEach(({ role, content }, i) => {
    if (role !== 'tool') {
      joined.push({ role, content })
      return
    }
    const result = `<tool_response>\n${content}\n</tool_response>`
    const last = joined.at(-1)
    if (last && messages[i - 1]?.role === 'tool') {
      joined[joined.length - 1] = { role: 'user', content: `${last.content}\n${result}` }
    } else {
      joined.push({ role: 'user', content: result })
    }
  })
  return joined
}
