import { z } from 'zod'
import type { ChatMessage, ToolCall } from '../text/chat-message.ts'
import { UNSUPPORTED } from './json-body.ts'
import { textSchema, unsupportedUnless } from './sampling-fields.ts'
import { isObject, isShallow, toolNameSchema } from './tool-fields.ts'

const contentPart = z
  .looseObject({ type: z.string() })
  .refine((part) => part.type === 'text', {
    message: 'only text parts are supported',
    path: ['type'],
    ...UNSUPPORTED,
  })
  .pipe(z.object({ type: z.literal('text'), text: textSchema }))

const contentSchema = z.preprocess(
  (content) => (typeof content === 'string' ? [{ type: 'text', text: content }] : content),
  z
    .array(contentPart, { error: 'must be a string or an array of text parts' })
    .min(1)
    .transform((parts) => parts.map((part) => part.text).join('')),
)

/** Arguments as the model once wrote them, in text. */
const argumentsSchema = z.string().transform((text, context) => {
  const values = parseArguments(text)
  if (isObject(values) && isShallow(values)) return values
  context.addIssue({ code: 'custom', message: 'must be a JSON object in a string' })
  return z.NEVER
})

const toolCallSchema = z
  .object({
    id: z.string().max(200),
    type: z.literal('function'),
    function: z.object({ name: toolNameSchema, arguments: argumentsSchema }),
  })
  .transform(({ id, function: called }): ToolCall => ({ id, ...called }))

const callsSchema = z.array(toolCallSchema).min(1)

/** One message of a conversation. An assistant's may be calls alone. */
export const messageSchema = z.preprocess(
  (message) =>
    isObject(message) && message.tool_calls && message.content == null
      ? { ...message, content: '' }
      : message,
  z
    .object({
      role: z.enum(['system', 'developer', 'user', 'assistant', 'tool']),
      content: contentSchema,
      tool_calls: callsSchema.nullish(),
      tool_call_id: z.string().max(200).nullish(),
      function_call: unsupportedUnless([], 'functions are not supported; use tools'),
    })
    .refine(({ role, tool_calls }) => !tool_calls || role === 'assistant', {
      path: ['tool_calls'],
      message: 'only the assistant calls tools',
    })
    .transform(
      ({ role, content, tool_calls, tool_call_id }): ChatMessage => ({
        role: role === 'developer' ? 'system' : role,
        content,
        ...(tool_calls && { toolCalls: tool_calls }),
        ...(role === 'tool' && tool_call_id != null && { toolCallId: tool_call_id }),
      }),
    ),
)

function parseArguments(text: string): unknown {
  try {
    return JSON.parse(text.trim() === '' ? '{}' : text)
  } catch {
    return undefined
  }
}
