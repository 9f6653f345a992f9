import type { Usage } from '../../protocol/backend.ts'
import { ApiError, composeErrorBody } from '../errors.ts'
import { parseJsonObject } from './answer-parts.ts'
import { createAnswerRecorder } from './answer-recorder.ts'
import type { AnswerWording } from './answer-wording.ts'
import { joinBytes } from './join-bytes.ts'
import { type Evidence, estimateTokenCount, type RelayEnding } from './meter-ending.ts'
import { composeQueueHeader, tellQueuePosition } from './queue-position.ts'
import {
  composeTiming,
  explainFailure,
  type RelayJob,
  respondToNobody,
  sendJob,
  waitAtMost,
} from './relay-job.ts'
import { createRelayLine, type RelayLine } from './relay-line.ts'
import { settleRelay } from './settle-relay.ts'
import { createSseScanner, type SseFrame } from './sse-frames.ts'
import { createStreamMeter, type StreamMeter } from './stream-meter.ts'

/**
 * An upstream that has not answered by now gets its status 200 in advance, so that blanks can be
 * sent and a client that leaves is noticed; until then every failure keeps its own status.
 */
const COMMIT_AFTER_MS = 500

const encoder = new TextEncoder()
const BLANK = encoder.encode(':\n\n')
const DONE = 'data: [DONE]\n\n'
const CONTENT_TYPE = 'text/event-stream; charset=utf-8'

/**
 * Relays a streamed answer: bytes pass as they come, the usage chunk and `[DONE]` wait until the
 * request is settled. Settles exactly once, however it ends; throws an ApiError, already settled,
 * for a failure before the response began.
 */
export async function relayStream(job: RelayJob): Promise<Response> {
  const line = createRelayLine({
    clientSignal: job.clientSignal,
    blank: BLANK,
    maxUpstreamSilenceMs: job.maxUpstreamSilenceMs,
    opensWithinMs: COMMIT_AFTER_MS,
    outlivesClient: job.outlivesClient,
  })
  const meter = createStreamMeter({ ...job.request, now: Date.now })
  const arrival = awaitUpstream(job, line)
  const early = await waitAtMost(arrival, COMMIT_AFTER_MS)
  if (early?.outcome === 'ended') {
    line.quieten()
    await settleRelay(job, early.ending, gatherEvidence(job, meter))
    if (early.ending.how === 'failed') throw early.ending.error
    return respondToNobody()
  }
  const isWaiting = early === null
  const timing = isWaiting ? await composeQueueHeader(job) : composeTiming(job)
  const body = line.open()
  job.waitUntil(runRelay(job, { line, meter, arrival, isWaiting }))
  return new Response(body, {
    headers: { 'content-type': CONTENT_TYPE, 'cache-control': 'no-cache', ...timing },
  })
}

type Arrival =
  | { readonly outcome: 'body'; readonly reader: ReadableStreamDefaultReader<Uint8Array> }
  | { readonly outcome: 'ended'; readonly ending: RelayEnding }

async function awaitUpstream(job: RelayJob, line: RelayLine): Promise<Arrival> {
  try {
    const response = await sendJob(job, line)
    line.noteUpstream()
    if (response.body === null) throw new Error('The backend answered without a body.')
    return { outcome: 'body', reader: response.body.getReader() }
  } catch (error) {
    return { outcome: 'ended', ending: explainFailure(line, error) }
  }
}

interface Relay {
  readonly line: RelayLine
  readonly meter: StreamMeter
  readonly arrival: Promise<Arrival>
  /** The upstream had not answered when the headers went out. */
  readonly isWaiting: boolean
}

async function runRelay(job: RelayJob, { line, meter, arrival, isWaiting }: Relay): Promise<void> {
  const { wording } = job.request
  const recorder = createAnswerRecorder(CONTENT_TYPE)
  const note = job.isKept ? recorder.note : () => {}
  if (wording !== undefined) {
    const begun = encoder.encode(wording.begin())
    note(begun)
    await line.write(begun).catch(() => {}) // the line knows that the client left
  }
  if (isWaiting) await tellQueuePosition(job, line, arrival)
  const arrived = await arrival
  const ending =
    arrived.outcome === 'body'
      ? await passFrames(arrived.reader, { line, meter, note, wording })
      : arrived.ending
  line.quieten()
  if (ending.how === 'client_left') await line.breakOff()
  const settled = await settleRelay(job, ending, {
    ...gatherEvidence(job, meter),
    prepare: (billed) => wording?.prepare(meter.composeUsageChunk(billed) ?? {}),
    composeAnswer: (billed) => recorder.compose(encoder.encode(composeTail(job, meter, billed))),
  })
  if (ending.how !== 'client_left') {
    const tail =
      ending.how === 'failed'
        ? composeFailure(wordFailure(ending.error, meter), wording)
        : settled.outcome === 'left_to_sweep'
          ? composeFailure(new ApiError('internal_error'), wording)
          : composeTail(job, meter, settled.usage)
    await line.write(encoder.encode(tail)).catch(() => {}) // a client that left now is settled already
    await line.close()
  }
  if (arrived.outcome === 'body') await letGo(arrived.reader)
}

interface Passage {
  readonly line: RelayLine
  readonly meter: StreamMeter
  /** Hears of everything that goes out. */
  readonly note: (bytes: Uint8Array) => void
  readonly wording: AnswerWording | undefined
}

/** The relay's loop. Returns how the stream ended; never throws. */
async function passFrames(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  { line, meter, note, wording }: Passage,
): Promise<RelayEnding> {
  const scanner = createSseScanner()
  try {
    while (!meter.reading.isDone && !meter.reading.hasError) {
      const { done, value } = await reader.read()
      line.noteUpstream()
      // At the end of the stream, what lacks its blank line is still a frame.
      const frames = scanner.push(done ? encoder.encode('\n\n') : value)
      const passed = readFrames(frames, meter, wording)
      if (passed !== null) {
        note(passed)
        await line.write(passed)
      }
      if (done) break
    }
  } catch (error) {
    if (line.stopReason() === 'client_left' || !meter.reading.isWhole) {
      return explainFailure(line, error)
    }
  }
  if (meter.reading.isWhole && !meter.reading.hasError) return { how: 'whole' }
  return { how: 'failed', error: describeCut(meter) }
}

/** The bytes to pass on of some frames; null for none. */
function readFrames(
  frames: readonly SseFrame[],
  meter: StreamMeter,
  wording: AnswerWording | undefined,
): Uint8Array | null {
  const passed = frames.flatMap((frame) => {
    const bytes = meter.read(frame)
    if (bytes === null) return []
    return wording === undefined ? bytes : wordFrame(frame, wording)
  })
  return passed.length === 0 ? null : joinBytes(passed)
}

/** What is no JSON cannot be worded; the meter has counted it. */
function wordFrame({ data }: SseFrame, wording: AnswerWording): Uint8Array | [] {
  const chunk = data === null ? null : parseJsonObject(data)
  const said = chunk === null ? '' : wording.read(chunk)
  return said === '' ? [] : encoder.encode(said)
}

function describeCut(meter: StreamMeter): ApiError {
  const cause = new Error(
    meter.reading.hasError ? 'The backend sent an error event.' : 'The stream ended too soon.',
  )
  return new ApiError('upstream_error', { cause })
}

/** The table's sentences say that nothing was billed, which holds before the first token only. */
function wordFailure(error: ApiError, { reading }: StreamMeter): ApiError {
  if (reading.tokenFrameCount === 0) return error
  return new ApiError(error.code, {
    message: 'The model backend failed in mid-answer. What was sent until then is billed.',
  })
}

function gatherEvidence(job: RelayJob, { reading }: StreamMeter): Evidence {
  return {
    usage: reading.usage,
    firstTokenAtMs: reading.firstTokenAtMs,
    provenance: reading.provenance,
    tokenCount: reading.tokenFrameCount,
    estimatedPromptTokens: estimateTokenCount(job.request.bodyBytes.length),
  }
}

function composeFailure(error: ApiError, wording: AnswerWording | undefined): string {
  if (wording !== undefined) return wording.fail(error)
  return `data: ${JSON.stringify(composeErrorBody(error))}\n\n`
}

function composeTail({ request }: RelayJob, meter: StreamMeter, billed: Usage): string {
  if (request.wording !== undefined) return request.wording.end()
  const usageChunk = meter.composeUsageChunk(billed)
  return usageChunk === null ? DONE : `data: ${JSON.stringify(usageChunk)}\n\n${DONE}`
}

/** How long an upstream that is through may take to close, before its connection is dropped. */
const CLOSE_WITHIN_MS = 1_000

/** Reads to the end, so that the connection can be used again. */
async function letGo(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  const drain = async () => {
    while (!(await reader.read()).done);
  }
  await waitAtMost(
    drain().catch(() => {}),
    CLOSE_WITHIN_MS,
  )
  await reader.cancel().catch(() => {})
}
