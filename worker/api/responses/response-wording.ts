import { isJsonObject, type JsonObject, readUsage } from '../../dispatch/answer-parts.ts'
import type { AnswerWording } from '../../dispatch/answer-wording.ts'
import { type ApiError, ERRORS } from '../../errors.ts'
import { createOutputWriter } from './output-writer.ts'
import type { ResponseRequest } from './request-schema.ts'
import type { OutputItem, ResponseBody } from './response-schema.ts'

export interface ResponseWordingOptions {
  readonly requestId: string
  readonly request: ResponseRequest
  readonly startedAtMs: number
  readonly now: () => number
  /** What served; asked for once the request is admitted. */
  readonly serviceTier: () => ResponseBody['service_tier']
  /** Keeps a response that asks for it; false when that failed. Never throws. */
  readonly keep: (response: ResponseBody) => Promise<boolean>
}

/** Words an answer of chat completions as a response, whole or as its events. */
export function createResponseWording(options: ResponseWordingOptions): AnswerWording {
  const { requestId, request, keep, now, serviceTier } = options
  const suffix = requestId.replace(/^req_/, '')
  let events = ''
  let sequenceNumber = 0
  let itemCount = 0
  let finishReason: unknown = null
  let lastEvents = ''
  let response = composeResponse(options, `resp_${suffix}`)

  const emit = (type: string, fields: object) => {
    const event = { type, sequence_number: sequenceNumber++, ...fields }
    events += `event: ${type}\ndata: ${JSON.stringify(event)}\n\n`
  }
  const writer = createOutputWriter((prefix) => `${prefix}_${suffix}_${itemCount++}`, emit)
  const flush = () => {
    const said = events
    events = ''
    return said
  }

  function readChoice(delta: unknown, reason: unknown): void {
    if (isJsonObject(delta)) writer.read(delta)
    if (typeof reason === 'string') finishReason = reason
  }

  return {
    begin: () => {
      response = { ...response, service_tier: serviceTier() }
      emit('response.created', { response })
      emit('response.in_progress', { response })
      return flush()
    },
    read: ({ choices }) => {
      const [choice] = listObjects(choices)
      if (choice !== undefined) readChoice(choice.delta, choice.finish_reason)
      return flush()
    },
    readBody: ({ choices }) => {
      const [choice] = listObjects(choices)
      if (choice !== undefined) readChoice(withIndices(choice.message), choice.finish_reason)
    },
    prepare: async ({ usage, tallygate }) => {
      const ending = explainFinish(finishReason)
      writer.finish(ending.status)
      response = {
        ...response,
        ...ending,
        service_tier: serviceTier(),
        output: [...writer.items],
        usage: composeUsage(usage),
        completed_at: ending.status === 'completed' ? Math.floor(now() / 1_000) : null,
        ...(isJsonObject(tallygate) && { tallygate }),
      }
      if (request.store && !(await keep(response))) response = { ...response, store: false }
      emit(`response.${response.status}`, { response })
      lastEvents = flush()
    },
    end: () => lastEvents,
    body: () => JSON.stringify(response),
    fail: (error) => {
      const output = writer.items.map((item): OutputItem => ({ ...item, status: 'incomplete' }))
      const failed = { ...response, output, status: 'failed', error: explainError(error) }
      emit('response.failed', { response: { ...failed, store: false } })
      return flush()
    },
  }
}

function composeTool({
  description = null,
  parameters = null,
  strict = null,
  ...named
}: NonNullable<ResponseRequest['tools']>[number]): ResponseBody['tools'][number] {
  return { ...named, description, parameters, strict }
}

function composeResponse(
  { request, startedAtMs }: ResponseWordingOptions,
  id: string,
): ResponseBody {
  return {
    id,
    object: 'response',
    created_at: Math.floor(startedAtMs / 1_000),
    completed_at: null,
    status: 'in_progress',
    error: null,
    incomplete_details: null,
    instructions: request.instructions ?? null,
    max_output_tokens: request.max_output_tokens ?? null,
    max_tool_calls: null,
    metadata: request.metadata ?? {},
    model: request.model,
    output: [],
    parallel_tool_calls: request.parallel_tool_calls ?? true,
    previous_response_id: request.previous_response_id ?? null,
    background: false,
    reasoning: { effort: null, summary: null },
    service_tier: 'default',
    store: request.store ?? false,
    // Where nothing was asked for, what OpenAI's API takes then.
    presence_penalty: request.presence_penalty ?? 0,
    frequency_penalty: request.frequency_penalty ?? 0,
    temperature: request.temperature ?? 1,
    text: { format: request.text?.format ?? { type: 'text' } },
    tool_choice: request.tool_choice ?? 'auto',
    tools: (request.tools ?? []).map(composeTool),
    top_logprobs: 0,
    top_p: request.top_p ?? 1,
    truncation: 'disabled',
    usage: null,
    user: request.user ?? null,
    safety_identifier: request.safety_identifier ?? null,
    prompt_cache_key: request.prompt_cache_key ?? null,
  }
}

function listObjects(value: unknown): readonly JsonObject[] {
  return Array.isArray(value) ? value.filter(isJsonObject) : []
}

/** The calls of a whole message are numbered by their place, as those of a stream by themselves. */
function withIndices(message: unknown): unknown {
  if (!isJsonObject(message)) return message
  const calls = listObjects(message.tool_calls)
  return { ...message, tool_calls: calls.map((call, index) => ({ ...call, index })) }
}

type Ending = Pick<ResponseBody, 'incomplete_details'> & {
  readonly status: 'completed' | 'incomplete'
}

function explainFinish(reason: unknown): Ending {
  switch (reason) {
    case 'length':
      return { status: 'incomplete', incomplete_details: { reason: 'max_output_tokens' } }
    case 'content_filter':
      return { status: 'incomplete', incomplete_details: { reason } }
    default:
      return { status: 'completed', incomplete_details: null }
  }
}

function composeUsage(sent: unknown): ResponseBody['usage'] {
  const usage = readUsage(sent)
  if (usage === null || !isJsonObject(sent)) return null
  const details = isJsonObject(sent.completion_tokens_details) ? sent.completion_tokens_details : {}
  const { reasoning_tokens: reasoningTokens } = details
  return {
    input_tokens: usage.prompt_tokens,
    input_tokens_details: { cached_tokens: usage.prompt_tokens_details?.cached_tokens ?? 0 },
    output_tokens: usage.completion_tokens,
    output_tokens_details: {
      reasoning_tokens: Number.isSafeInteger(reasoningTokens) ? Number(reasoningTokens) : 0,
    },
    total_tokens: usage.total_tokens,
  }
}

function explainError({ code, message }: ApiError): NonNullable<ResponseBody['error']> {
  const { status } = ERRORS[code]
  if (status === 429) return { code: 'rate_limit_exceeded', message }
  return { code: status < 500 ? 'invalid_prompt' : 'server_error', message }
}
