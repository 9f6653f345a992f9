import { isJsonObject, type JsonObject } from '../../dispatch/answer-parts.ts'
import { ApiError } from '../../errors.ts'
import { responseRequestSchema } from './request-schema.ts'

/** Fields of OpenAI's that ask for nothing here and change no answer. */
const WITHOUT_EFFECT = [
  'max_tool_calls', // counts tools that the server runs
  'prompt_cache_retention',
  'stream_options', // obfuscation
]

/** Fields whose other values would change the answer, or what is done with it. */
const HARMLESS_VALUES: ReadonlyMap<string, readonly unknown[]> = new Map<string, unknown[]>([
  ['background', [false]],
  ['top_logprobs', [0]],
  ['truncation', ['disabled']],
])

/** Fields that are offered in part, or looked at further down. */
const OFFERED = new Set([...Object.keys(responseRequestSchema.shape), 'reasoning', 'include'])

const PARTS = ['input_text', 'output_text', 'refusal']

/**
 * Throws `unsupported_parameter` for what OpenAI offers and we do not, and for what nobody knows:
 * nothing that would change the answer is ignored. What is offered is checked by its schema.
 */
export function refuseUnsupported(body: JsonObject): void {
  for (const [name, value] of Object.entries(body)) {
    if (value === null || WITHOUT_EFFECT.includes(name)) continue
    const harmless = HARMLESS_VALUES.get(name)
    if (harmless !== undefined) requireOneOf(value, name, harmless)
    else if (!OFFERED.has(name)) throw refuse(name, 'is not supported here')
  }
  const { reasoning, include, text, tools, tool_choice: choice, input } = body
  if (isJsonObject(reasoning)) requireOneOf(reasoning.effort, 'reasoning.effort', ['none'])
  for (const [i, asked] of listOf(include).entries())
    requireOneOf(asked, `include[${i}]`, ['reasoning.encrypted_content'])
  if (isJsonObject(text)) {
    requireOneOf(text.verbosity, 'text.verbosity', ['medium'])
    requireType(text.format, 'text.format', ['text', 'json_object', 'json_schema'])
  }
  for (const [i, tool] of listOf(tools).entries()) requireType(tool, `tools[${i}]`, ['function'])
  requireType(choice, 'tool_choice', ['function'])
  for (const [i, item] of listOf(input).entries()) refuseItem(item, `input[${i}]`)
}

function refuseItem(item: unknown, param: string): void {
  requireType(item, param, ['message', 'function_call', 'function_call_output'])
  if (!isJsonObject(item)) return
  for (const field of ['content', 'output']) {
    for (const [i, part] of listOf(item[field]).entries())
      requireType(part, `${param}.${field}[${i}]`, PARTS)
  }
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}

function requireType(value: unknown, param: string, offered: readonly string[]): void {
  if (isJsonObject(value)) requireOneOf(value.type, `${param}.type`, offered)
}

/** What is missing, null or of a wrong type is not for this check. */
function requireOneOf(value: unknown, param: string, offered: readonly unknown[]): void {
  if (value == null || typeof value === 'object' || offered.includes(value)) return
  throw refuse(param, `only ${offered.join(', ')} is supported here`)
}

function refuse(param: string, sentence: string): ApiError {
  return new ApiError('unsupported_parameter', { message: `${param}: ${sentence}`, param })
}
