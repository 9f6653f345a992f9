import type { Provenance, Usage } from '../../protocol/backend.ts'
import {
  isJsonObject,
  type JsonObject,
  parseJsonObject,
  publishAttribution,
  readProvenance,
  readUsage,
} from './answer-parts.ts'
import type { SseFrame } from './sse-frames.ts'

export interface StreamMeterOptions {
  /** How many answers the stream holds: it is whole when all of them have ended. */
  readonly choiceCount: number
  /** Whether the caller is sent the usage chunk. */
  readonly wantsUsage: boolean
  /** Whether the caller is sent who contributed to the answer. */
  readonly wantsAttribution: boolean
  readonly now: () => number
}

/** What a stream has shown of itself so far. */
interface StreamReading {
  /** Frames that carried a token: what the client received, in tokens. */
  readonly tokenFrameCount: number
  readonly firstTokenAtMs: number | null
  readonly malformedFrameCount: number
  readonly usage: Usage | null
  readonly provenance: Provenance | null
  /** `[DONE]` was seen, or every answer's finish reason. */
  readonly isWhole: boolean
  readonly isDone: boolean
  /** The upstream said that it failed. */
  readonly hasError: boolean
}

export interface StreamMeter {
  /** Takes note of a frame; returns the bytes to pass on, or null for a frame that is held back. */
  readonly read: (frame: SseFrame) => Uint8Array | null
  /** Live: changes with each frame read. */
  readonly reading: StreamReading
  /** What is sent after settling and before `[DONE]`: the usage chunk as this caller may see it, or null. */
  readonly composeUsageChunk: (billed: Usage) => JsonObject | null
}

const encoder = new TextEncoder()

/**
 * Meters an OpenAI stream while it passes. Held back: the usage chunk and `[DONE]`, which go out
 * only once the request is settled, and errors, which the relay words itself. Our own backend's
 * provenance is cut out wherever it stands. A frame that is no JSON passes as it is.
 */
export function createStreamMeter(options: StreamMeterOptions): StreamMeter {
  const reading: Writable<StreamReading> = {
    tokenFrameCount: 0,
    firstTokenAtMs: null,
    malformedFrameCount: 0,
    usage: null,
    provenance: null,
    isWhole: false,
    isDone: false,
    hasError: false,
  }
  const finished = new Set<unknown>()
  let lastChunk: JsonObject = {}
  let usageAsSent: JsonObject | null = null

  function read(frame: SseFrame): Uint8Array | null {
    if (frame.data === null) return frame.bytes
    if (frame.data === '[DONE]') {
      reading.isDone = true
      reading.isWhole = true
      return null
    }
    const chunk = parseJsonObject(frame.data)
    if (chunk === null) {
      reading.malformedFrameCount += 1
      return frame.bytes
    }
    if (chunk.error !== undefined && chunk.error !== null) {
      reading.hasError = true
      return null
    }
    lastChunk = chunk
    const choices = Array.isArray(chunk.choices) ? chunk.choices.filter(isJsonObject) : []
    readChoices(choices)
    const carriesMeter = isJsonObject(chunk.usage) || chunk.tallygate !== undefined
    if (!carriesMeter) return frame.bytes
    readMeter(chunk)
    return choices.length === 0
      ? null
      : encoder.encode(`data: ${JSON.stringify(omitMeter(chunk))}\n\n`)
  }

  function readChoices(choices: readonly JsonObject[]): void {
    reading.tokenFrameCount += choices.filter(carriesToken).length
    if (reading.tokenFrameCount > 0) reading.firstTokenAtMs ??= options.now()
    for (const choice of choices) {
      if (typeof choice.finish_reason === 'string') finished.add(choice.index)
    }
    if (finished.size >= options.choiceCount) reading.isWhole = true
  }

  function readMeter(chunk: JsonObject): void {
    const usage = readUsage(chunk.usage)
    if (usage !== null && isJsonObject(chunk.usage)) {
      reading.usage = usage
      usageAsSent = chunk.usage
    }
    reading.provenance = readProvenance(chunk.tallygate) ?? reading.provenance
  }

  function composeUsageChunk(billed: Usage): JsonObject | null {
    const credited = options.wantsAttribution ? reading.provenance : null
    if (!options.wantsUsage && credited === null) return null
    return {
      ...omitMeter(lastChunk),
      choices: [],
      ...(options.wantsUsage && { usage: usageAsSent ?? billed }),
      ...(credited && { tallygate: publishAttribution(credited) }),
    }
  }

  return { read, reading, composeUsageChunk }
}

type Writable<T> = { -readonly [K in keyof T]: T[K] }

function omitMeter(chunk: JsonObject): JsonObject {
  const { usage: _usage, tallygate: _tallygate, ...rest } = chunk
  return rest
}

/** One frame with text and no finish reason is one token; the frame that only names the role is none. */
function carriesToken(choice: JsonObject): boolean {
  if (typeof choice.finish_reason === 'string') return false
  if (typeof choice.text === 'string') return true
  if (!isJsonObject(choice.delta)) return false
  const { role, content, ...rest } = choice.delta
  if (typeof content === 'string' && (role === undefined || content !== '')) return true
  // Tool calls, reasoning; beside a role an empty text says nothing yet.
  return Object.values(rest).some((value) => value != null && !(role !== undefined && value === ''))
}
