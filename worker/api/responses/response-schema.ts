import { z } from 'zod'
import { formatSchema, metadataSchema, toolChoiceSchema, toolSchema } from './request-schema.ts'

const statusSchema = z.enum(['in_progress', 'completed', 'incomplete'])

const outputPartSchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('output_text'),
    text: z.string(),
    annotations: z.array(z.never()),
    logprobs: z.array(z.never()),
  }),
  z.strictObject({ type: z.literal('refusal'), refusal: z.string() }),
])

export type OutputPart = z.input<typeof outputPartSchema>

const outputItemSchema = z
  .discriminatedUnion('type', [
    z.strictObject({
      id: z.string(),
      type: z.literal('message'),
      role: z.literal('assistant'),
      status: statusSchema,
      content: z.array(outputPartSchema),
    }),
    z.strictObject({
      id: z.string(),
      type: z.literal('function_call'),
      call_id: z.string(),
      name: z.string(),
      arguments: z.string(),
      status: statusSchema,
    }),
  ])
  .meta({ id: 'ResponseOutputItem' })

export type OutputItem = z.input<typeof outputItemSchema>

const errorSchema = z.strictObject({
  code: z.enum(['server_error', 'rate_limit_exceeded', 'invalid_prompt']),
  message: z.string(),
})

/** What OpenAI's response has and ours never does. */
const NOTHING = z.null()

export const responseSchema = z
  .strictObject({
    id: z.string(),
    object: z.literal('response'),
    created_at: z.int().describe('Seconds since 1970.'),
    completed_at: z.int().nullable(),
    status: z.enum(['in_progress', 'completed', 'incomplete', 'failed']),
    error: errorSchema.nullable(),
    incomplete_details: z
      .strictObject({ reason: z.enum(['max_output_tokens', 'content_filter']) })
      .nullable(),
    instructions: z.string().nullable(),
    max_output_tokens: z.int().nullable(),
    max_tool_calls: NOTHING,
    metadata: metadataSchema,
    model: z.string(),
    output: z.array(outputItemSchema),
    parallel_tool_calls: z.boolean(),
    previous_response_id: z.string().nullable(),
    background: z.literal(false),
    reasoning: z.strictObject({ effort: NOTHING, summary: NOTHING }),
    service_tier: z.enum(['default', 'flex', 'priority']).describe('The tier that served.'),
    store: z.boolean().describe('Whether it is kept.'),
    presence_penalty: z.number(),
    frequency_penalty: z.number(),
    temperature: z.number(),
    text: z.strictObject({ format: formatSchema }),
    tool_choice: toolChoiceSchema,
    tools: z.array(toolSchema.required()),
    top_logprobs: z.literal(0),
    top_p: z.number(),
    truncation: z.literal('disabled'),
    usage: z
      .strictObject({
        input_tokens: z.int(),
        input_tokens_details: z.strictObject({ cached_tokens: z.int() }),
        output_tokens: z.int(),
        output_tokens_details: z.strictObject({ reasoning_tokens: z.int() }),
        total_tokens: z.int(),
      })
      .nullable(),
    user: z.string().nullable(),
    safety_identifier: z.string().nullable(),
    prompt_cache_key: z.string().nullable(),
    tallygate: z.looseObject({}).optional().describe('Attribution, when it was asked for.'),
  })
  .meta({ id: 'Response' })

export type ResponseBody = z.input<typeof responseSchema>

export const deletedResponseSchema = z
  .strictObject({ id: z.string(), object: z.literal('response'), deleted: z.literal(true) })
  .meta({ id: 'DeletedResponse' })
