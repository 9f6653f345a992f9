import { BackendError } from '../errors.ts'
import { literal } from '../grammar/ebnf.ts'
import { createGrammarBuilder, type GrammarBuilder } from '../grammar/json-schema.ts'
import { SchemaError } from '../grammar/schema-parts.ts'
import type { ToolForm } from '../text/tool-form.ts'
import type { ResponseFormat } from './response-format.ts'
import type { ServedModel } from './served-model.ts'
import type { CallableTool, ToolPlan } from './tool-fields.ts'

interface AnswerPlan {
  readonly format: ResponseFormat | null
  readonly tools: ToolPlan
  readonly model: Pick<ServedModel, 'stopTokenIds' | 'toolForm'>
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
  const root =
    tools.callable.length > 0 ? addTools(builder, { tools, json, form: model.toolForm }) : json
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

interface CallRules {
  readonly tools: ToolPlan
  readonly json: string | null
  readonly form: ToolForm
}

/** Calls in the model's form; where they are optional, a free answer may hold them too. */
function addTools(builder: GrammarBuilder, { tools, json, form }: CallRules): string | null {
  const bodies = tools.callable.map((tool) => {
    const name = literal(`{"name": ${JSON.stringify(tool.name)}, "${form.argumentsKey}": `)
    return `${name} ${addParameters(builder, tool)} "}"`
  })
  const body = builder.addRule(bodies.join(' | '))
  const triggerLength = form.trigger?.length ?? 0
  const call = builder.addRule(around(form.open, body, form.close))
  const more = Math.min(tools.maxCallCount, form.maxCallCount) - 1
  const repeated = (first: string) =>
    more > 0 ? `${first} (${literal(form.between)} ${call}){0,${more}}` : first
  const calls = builder.addRule(around(form.begin, repeated(call), form.end))
  if (tools.isRequired) return calls
  if (json !== null) return `${json} | ${calls}`
  if (form.trigger === null) return null
  const isList = form.begin !== ''
  const rest = isList
    ? around(form.begin.slice(triggerLength), repeated(call), form.end)
    : around(form.open.slice(triggerLength), body, form.close)
  const loops = !isList && tools.maxCallCount > 1
  return `TagDispatch((${literal(form.trigger)}, ${builder.addRule(rest)}), stop_eos=true, loop_after_dispatch=${loops})`
}

function around(before: string, rule: string, after: string): string {
  return [before && literal(before), rule, after && literal(after)].filter(Boolean).join(' ')
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
