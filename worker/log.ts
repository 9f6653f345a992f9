/** Everything a log line may hold. Never a prompt, an answer, a key or a header's value. */
export interface LogFields {
  readonly requestId?: string | undefined
  /** What the caller sent as `x-request-id`, cut to printable characters. */
  readonly callerRequestId?: string | undefined
  readonly accountId?: string | undefined
  readonly method?: string | undefined
  /** The route's pattern, never the path. */
  readonly route?: string | undefined
  readonly status?: number | undefined
  readonly code?: string | undefined
  readonly durationMs?: number | undefined
  readonly backendId?: string | undefined
  readonly upstreamStatus?: number | undefined
  /** As the catalogue names it. */
  readonly model?: string | undefined
  readonly outcome?: string | undefined
  readonly promptTokens?: number | undefined
  readonly completionTokens?: number | undefined
  readonly feeMicroUsd?: number | undefined
  /** Where the token counts come from. */
  readonly meteredBy?: string | undefined
  readonly malformedFrameCount?: number | undefined
  readonly attempt?: number | undefined
  readonly errorName?: string | undefined
  readonly errorMessage?: string | undefined
  readonly errorStack?: string | undefined
}

type LogEvent =
  | 'request'
  | 'relayed'
  | 'request_failed'
  | 'backend_failed'
  | 'account_call_failed'
  | 'settle_failed'
  | 'left_to_sweep'
  | 'response_not_kept'
  | 'scheduled_failed'
  | 'telemetry_failed'
  | 'prices_failed'
  | 'stripe_failed'

export type Log = (event: LogEvent, fields: LogFields) => void

const FIELD_NAMES = [
  'requestId',
  'callerRequestId',
  'accountId',
  'method',
  'route',
  'status',
  'code',
  'durationMs',
  'backendId',
  'upstreamStatus',
  'model',
  'outcome',
  'promptTokens',
  'completionTokens',
  'feeMicroUsd',
  'meteredBy',
  'malformedFrameCount',
  'attempt',
  'errorName',
  'errorMessage',
  'errorStack',
] as const satisfies readonly (keyof LogFields)[]

/** Writes one JSON object a line; a field that is not on the list is dropped, whatever its type says. */
export function createLog(write = (line: string) => console.log(line)): Log {
  return (event, fields) => {
    const line: Record<string, unknown> = { time: new Date().toISOString(), event }
    for (const name of FIELD_NAMES) if (fields[name] !== undefined) line[name] = fields[name]
    write(JSON.stringify(line))
  }
}

const MAX_MESSAGE_CHARACTERS = 300

/**
 * What a log may say of a thrown value. The message of a SyntaxError quotes its input, which may be
 * a prompt: it is left out, and so is the stack's first line, which repeats the message.
 */
export function describeError(thrown: unknown): LogFields {
  if (!(thrown instanceof Error)) return { errorName: typeof thrown }
  const frames = thrown.stack?.split('\n').filter((line) => /^\s+at /.test(line)) ?? []
  return {
    errorName: thrown.name,
    errorMessage:
      thrown instanceof SyntaxError
        ? undefined
        : thrown.message.slice(0, MAX_MESSAGE_CHARACTERS).replace(/tg_\w+/g, 'tg_…'),
    errorStack: frames.slice(0, 8).join('\n'),
  }
}
