/**
 * The only fields that may stand in a log line. Text that a caller wrote (prompts, answers, keys,
 * messages of unknown errors) has no field here, and so cannot be logged.
 */
const LOG_FIELDS = [
  'requestId',
  'tenant',
  'model',
  'adapter',
  'digest',
  'code',
  'status',
  'outcome',
  'promptTokens',
  'completionTokens',
  'durationMs',
  'count',
  'signal',
  'url',
  'errorName',
  /** Stack frames only: the message above them can quote a prompt. */
  'stack',
  /** A sentence of this code about an adapter or the configuration. */
  'reason',
] as const

export type LogFields = { readonly [Field in (typeof LOG_FIELDS)[number]]?: string | number }

type LogLevel = 'info' | 'warn' | 'error'

/** Writes one event; never throws. */
export type Log = (level: LogLevel, event: string, fields?: LogFields) => void

/** A log of JSON lines on stderr: `{"time","level","event",…fields}`. */
export function createLog(now: () => number): Log {
  return (level, event, fields = {}) => {
    const allowed = LOG_FIELDS.flatMap((name) =>
      fields[name] === undefined ? [] : [[name, fields[name]] as const],
    )
    const line = {
      time: new Date(now()).toISOString(),
      level,
      event,
      ...Object.fromEntries(allowed),
    }
    process.stderr.write(`${JSON.stringify(line)}\n`)
  }
}

/** What may be said of an unknown throw: its class and where it came from. */
export function describeThrown(thrown: unknown): LogFields {
  if (!(thrown instanceof Error)) return { errorName: typeof thrown }
  return { errorName: thrown.name, stack: keepFrames(thrown.stack ?? '') }
}

/** The first frames of a stack, without the message above them. */
export function keepFrames(stack: string): string {
  const frames = stack.split('\n').filter((line) => /^\s+at /.test(line))
  return frames.slice(0, 8).join('\n')
}
