import type { Usage } from '../../protocol/backend.ts'
import type { Endpoint } from '../ledger/usage-record.ts'
import type { Attributes } from './meters.ts'
import type { Telemetry } from './telemetry.ts'
import type { TraceContext } from './trace-context.ts'

/** A request for text that has ended, as telemetry tells of it. */
export interface EndedGeneration {
  readonly trace: TraceContext
  readonly requestId: string
  readonly endpoint: Endpoint
  /** As the catalogue names it. */
  readonly model: string
  readonly backendId: string
  readonly startedAtMs: number
  /** Null where no token came, or not as a stream. */
  readonly firstTokenAtMs: number | null
  readonly endedAtMs: number
  readonly usage: Usage
  readonly feeMicroUsd: number
  readonly outcome: string
  readonly errorCode: string | null
}

/** What OpenTelemetry calls the operations, where it has a name for them. */
const OPERATION_NAMES = {
  'chat.completions': 'chat',
  responses: 'chat',
  completions: 'text_completion',
  embeddings: 'embeddings',
  tokenize: 'tokenize',
  detokenize: 'detokenize',
} as const satisfies Record<Endpoint, string>

/** Counts a request and tells it as a span. Attributes are OpenTelemetry's for generative AI. */
export function noteGeneration(
  telemetry: Telemetry,
  ended: EndedGeneration,
  waitUntil: (work: Promise<unknown>) => void,
): void {
  const { model, usage, startedAtMs, endedAtMs, firstTokenAtMs, errorCode } = ended
  const operation = OPERATION_NAMES[ended.endpoint]
  const attributes: Attributes = {
    'gen_ai.operation.name': operation,
    'gen_ai.provider.name': 'tallygate',
    'gen_ai.request.model': model,
  }
  const { meters } = telemetry
  const seconds = (untilMs: number) => (untilMs - startedAtMs) / 1_000
  const failed = errorCode === null ? {} : { 'error.type': errorCode }
  meters.record('gen_ai.server.request.duration', seconds(endedAtMs), { ...attributes, ...failed })
  if (firstTokenAtMs !== null) {
    meters.record('gen_ai.server.time_to_first_token', seconds(firstTokenAtMs), attributes)
  }
  const tokens = [
    ['input', usage.prompt_tokens],
    ['output', usage.completion_tokens],
  ] as const
  for (const [type, count] of tokens) {
    if (count === 0) continue
    const typed = { ...attributes, 'gen_ai.token.type': type }
    meters.record('gen_ai.client.token.usage', count, typed)
  }
  meters.record('tallygate.fees', ended.feeMicroUsd, { 'gen_ai.request.model': model })
  telemetry.addSpan(
    {
      trace: ended.trace,
      name: `${operation} ${model}`,
      startedAtMs,
      endedAtMs,
      attributes: {
        ...attributes,
        'gen_ai.response.id': ended.requestId,
        'gen_ai.usage.input_tokens': usage.prompt_tokens,
        'gen_ai.usage.output_tokens': usage.completion_tokens,
        'tallygate.backend': ended.backendId,
        'tallygate.outcome': ended.outcome,
        'tallygate.fee_micro_usd': ended.feeMicroUsd,
        'tallygate.time_to_first_token_ms':
          firstTokenAtMs === null ? undefined : firstTokenAtMs - startedAtMs,
      },
      errorCode,
    },
    waitUntil,
  )
}
