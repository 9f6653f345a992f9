import { z } from 'zod'
import {
  extensionSchema,
  MAX_TOKEN_COUNT,
  modelNameSchema,
  penaltySchema,
  temperatureSchema,
  topProbabilitySchema,
} from '../generation-schema.ts'
import { serviceTierSchema } from '../service-tier.ts'

const MAX_ITEM_COUNT = 10_000
const MAX_TOOL_COUNT = 128

const nameSchema = z
  .string()
  .regex(/^[a-zA-Z0-9_-]{1,64}$/, 'must be 1 to 64 letters, digits, _ or -')

const partSchema = z.discriminatedUnion('type', [
  z.looseObject({ type: z.enum(['input_text', 'output_text']), text: z.string() }),
  z.looseObject({ type: z.literal('refusal'), refusal: z.string() }),
])

const contentSchema = z.union([z.string(), z.array(partSchema).min(1)])

/** One item of a conversation: what was said, a call of a function, or what it gave back. */
export const itemSchema = z
  .discriminatedUnion('type', [
    z.looseObject({
      type: z.literal('message').optional(),
      role: z.enum(['user', 'system', 'developer', 'assistant']),
      content: contentSchema,
    }),
    z.looseObject({
      type: z.literal('function_call'),
      call_id: z.string().min(1).max(200),
      name: nameSchema,
      arguments: z.string(),
    }),
    z.looseObject({
      type: z.literal('function_call_output'),
      call_id: z.string().min(1).max(200),
      output: contentSchema,
    }),
  ])
  .meta({ id: 'ResponseInputItem' })

export type Item = z.output<typeof itemSchema>

export const formatSchema = z.discriminatedUnion('type', [
  z.object({ type: z.enum(['text', 'json_object']) }),
  z.object({
    type: z.literal('json_schema'),
    name: nameSchema,
    schema: z.record(z.string(), z.unknown()),
    description: z.string().nullish(),
    strict: z.boolean().nullish(),
  }),
])

export const toolSchema = z.object({
  type: z.literal('function'),
  name: nameSchema,
  description: z.string().nullish(),
  parameters: z.record(z.string(), z.unknown()).nullish(),
  strict: z.boolean().nullish(),
})

export const toolChoiceSchema = z.union([
  z.enum(['none', 'auto', 'required']),
  z.object({ type: z.literal('function'), name: nameSchema }),
])

export const metadataSchema = z
  .record(z.string().max(64), z.string().max(512))
  .refine((pairs) => Object.keys(pairs).length <= 16, 'must have at most 16 entries')

export const RESPONSE_ID = /^resp_[0-9a-zA-Z]{1,59}$/

export const responseRequestSchema = z
  .object({
    model: modelNameSchema,
    input: z.union([z.string(), z.array(itemSchema).min(1).max(MAX_ITEM_COUNT)]),
    instructions: z.string().nullish().describe('A system message before the conversation.'),
    previous_response_id: z
      .string()
      .regex(RESPONSE_ID, 'must be the id of a response')
      .nullish()
      .describe('Goes on from a response that was kept; its instructions are not taken over.'),
    store: z
      .boolean()
      .nullish()
      .describe(
        'Keep the response and its conversation for 30 days, for this key alone. Default false.',
      ),
    stream: z.boolean().nullish(),
    max_output_tokens: z.int().min(1).max(MAX_TOKEN_COUNT).nullish(),
    temperature: temperatureSchema,
    top_p: topProbabilitySchema,
    presence_penalty: penaltySchema,
    frequency_penalty: penaltySchema,
    text: z.looseObject({ format: formatSchema.nullish() }).nullish(),
    tools: z.array(toolSchema).max(MAX_TOOL_COUNT).nullish(),
    tool_choice: toolChoiceSchema.nullish(),
    parallel_tool_calls: z.boolean().nullish(),
    metadata: metadataSchema.nullish(),
    user: z.string().nullish(),
    safety_identifier: z.string().nullish(),
    prompt_cache_key: z.string().nullish(),
    service_tier: serviceTierSchema,
    truncation: z.literal('disabled').nullish(),
    tallygate: extensionSchema,
  })
  .meta({ id: 'ResponseRequest' })

export type ResponseRequest = z.output<typeof responseRequestSchema>
