import { BackendError } from '../errors.ts'
import { literal } from '../grammar/ebnf.ts'
import { createGrammarBuilder, type GrammarBuilder } from '../grammar/json-schema.ts'
import { SchemaError } from '../grammar/schema-parts.ts'
import { TOOL_CALL_CLOSE, TOOL_CALL_OPEN } from '../text/tool-prompt.ts'
import type { ResponseFormat } from './response-format.ts'
import type { ServedModel } from './served-model.ts'
import type { CallableTool, ToolPlan } from './tool-fields.ts'

interface AnswerPlan {
  readonly format: ResponseFormat | null
  readonly tools: ToolPlan
  readonly model: Pick<ServedModel, 'stopTokenIds'>
}

const ANY_OBJECT = { type: 'object' } as const
const NO_ARGUMENTS = { type: 'object', additionalProperties: false } as const

/**
 * The grammar that keeps an answer to its `response_format` and its tool calls well-formed; null where
 * the answer is free. Throws `unsupported_parameter`, naming the keyword, for a schema that no grammar
 * can keep.
 */
export function planGrammar({ format, tools, model }: AnswerPlan): string | null {
  const builder = createGrammarBuilder()
  const json = addFormat(builder, format)
  const root = tools.callable.length > 0 ? addTools(builder, tools, json) : json
  if (root === null) return null
  if (model.stopTokenIds.length > 0) return builder.build(root)
  throw new BackendError(
    'unsupported_parameter',
    "'response_format': this model has no token that ends an answer",
    { param: json === null ? 'tools' : 'response_format' },
  )
}

function addFormat(builder: GrammarBuilder, format: ResponseFormat | null): string | null {
  switch (format?.type) {
    case 'json_object':
      return builder.addSchema(ANY_OBJECT)
    case 'json_schema':
      return addSchema(
        builder,
        format.json_schema.schema ?? ANY_OBJECT,
        'response_format.json_schema.schema',
      )
    default:
      return null
  }
}

/** Calls in the form of `text/tool-prompt.ts`; where they are optional, a free answer may hold them too. */
function addTools(builder: GrammarBuilder, tools: ToolPlan, json: string | null): string {
  const bodies = tools.callable.map((tool) => {
    const name = literal(`{"name": ${JSON.stringify(tool.name)}, "arguments": `)
    return `${name} ${addParameters(builder, tool)} "}"`
  })
  const body = builder.addRule(bodies.join(' | '))
  const afterOpen = builder.addRule(`"\\n" ${body} ${literal(`\n${TOOL_CALL_CLOSE}`)}`)
  const call = builder.addRule(`${literal(TOOL_CALL_OPEN)} ${afterOpen}`)
  const more = tools.maxCallCount - 1
  const calls = builder.addRule(more > 0 ? `${call} ("\\n" ${call}){0,${more}}` : call)
  if (tools.isRequired) return calls
  if (json !== null) return `${json} | ${calls}`
  const loops = tools.maxCallCount > 1
  return `TagDispatch((${literal(TOOL_CALL_OPEN)}, ${afterOpen}), stop_eos=true, loop_after_dispatch=${loops})`
}

function addParameters(builder: GrammarBuilder, tool: CallableTool): string {
  const path = `tools[${tool.index}].function.parameters`
  if (tool.parameters === null) return builder.addSchema(NO_ARGUMENTS)
  // Arguments are an object, whatever else the schema allows.
  const schema = { type: 'object', ...tool.parameters }
  if (tool.isStrict) return addSchema(builder, schema, path)
  try {
    return builder.addSchema(schema)
  } catch (error) {
    if (error instanceof SchemaError) return builder.addSchema(ANY_OBJECT)
    throw error
  }
}

function addSchema(builder: GrammarBuilder, schema: unknown, param: string): string {
  try {
    return builder.addSchema(schema)
  } catch (error) {
    if (!(error instanceof SchemaError)) throw error
    const separator = error.path === '' || error.path.startsWith('[') ? '' : '.'
    const at = `${param}${separator}${error.path}`
    // biome-ignore lint/style/useErrorCause: the cause stands in the detail
    throw new BackendError('unsupported_parameter', `'${at}': ${error.message}`, {
      param: at,
      cause: error,
    })
  }
}
