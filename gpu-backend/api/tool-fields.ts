import { z } from 'zod'
import { BackendError } from '../errors.ts'
import type { ToolDefinition } from '../text/chat-message.ts'
import { UNSUPPORTED } from './json-body.ts'

const MAX_TOOL_COUNT = 128
/** Nesting of values that are written into the prompt. */
const MAX_DEPTH = 64

export const toolNameSchema = z
  .string()
  .regex(/^[a-zA-Z0-9_-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -')

const parametersSchema = z
  .custom<Readonly<Record<string, unknown>>>(isObject, 'must be a JSON Schema')
  .refine(isShallow, `must not be nested deeper than ${MAX_DEPTH}`)

const toolSchema = z
  .looseObject({ type: z.string() })
  .refine(({ type }) => type === 'function', {
    path: ['type'],
    message: 'only functions are supported',
    ...UNSUPPORTED,
  })
  .pipe(
    z.object({
      type: z.literal('function'),
      function: z.object({
        name: toolNameSchema,
        description: z.string().nullish(),
        parameters: parametersSchema.nullish(),
        strict: z.boolean().nullish(),
      }),
    }),
  )

const namedChoice = z.object({
  type: z.literal('function'),
  function: z.object({ name: toolNameSchema }),
})

/** The fields that speak of tools. */
export const toolFields = {
  tools: z.array(toolSchema).max(MAX_TOOL_COUNT).nullish(),
  tool_choice: z
    .union([z.enum(['none', 'auto', 'required']), namedChoice], {
      error: 'must be none, auto, required, or name a function',
    })
    .nullish(),
  parallel_tool_calls: z.boolean().nullish(),
}

type ToolFields = z.output<z.ZodObject<typeof toolFields>>

/** A tool that the answer may call. */
export interface CallableTool {
  readonly name: string
  readonly parameters: Readonly<Record<string, unknown>> | null
  /** Whether a schema that cannot be kept is an error, rather than any object. */
  readonly isStrict: boolean
  /** Its place in `tools`. */
  readonly index: number
}

export interface ToolPlan {
  /** What the prompt tells of. */
  readonly told: readonly ToolDefinition[]
  /** What the answer may call; empty: nothing. */
  readonly callable: readonly CallableTool[]
  /** Whether the answer must be calls. */
  readonly isRequired: boolean
  readonly maxCallCount: number
}

/** Calls of one answer. */
const MAX_CALL_COUNT = 16

/** Throws where a choice is made among tools that are not there. */
export function planTools(fields: ToolFields): ToolPlan {
  const tools = fields.tools ?? []
  const choice = fields.tool_choice ?? 'auto'
  if (choice === 'none' || (choice === 'auto' && tools.length === 0)) {
    return { told: [], callable: [], isRequired: false, maxCallCount: 0 }
  }
  const all = tools.map(({ function: tool }, index) => ({
    name: tool.name,
    parameters: tool.parameters ?? null,
    isStrict: tool.strict ?? false,
    index,
  }))
  const isNamed = typeof choice === 'object'
  const callable = isNamed ? all.filter(({ name }) => name === choice.function.name) : all
  if (callable.length === 0) {
    throw new BackendError('invalid_request', "'tool_choice': there is no such tool in 'tools'", {
      param: 'tool_choice',
    })
  }
  return {
    told: tools.map(({ type, function: { name, description, parameters } }) => ({
      type,
      function: {
        name,
        ...(description != null && { description }),
        parameters: parameters ?? { type: 'object', properties: {} },
      },
    })),
    callable,
    isRequired: choice !== 'auto',
    maxCallCount: isNamed || fields.parallel_tool_calls === false ? 1 : MAX_CALL_COUNT,
  }
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function isShallow(value: unknown, depth = 0): boolean {
  if (typeof value !== 'object' || value === null) return true
  return depth < MAX_DEPTH && Object.values(value).every((inner) => isShallow(inner, depth + 1))
}
