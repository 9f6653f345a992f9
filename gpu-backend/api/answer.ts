import type { Provenance, Usage } from '../../protocol/backend.ts'
import type { FinishReason } from '../engine/engine-port.ts'
import { BackendError } from '../errors.ts'
import { formatError, toBackendError } from './error-response.ts'
import {
  type ChoiceEvent,
  type GenerationJob,
  type GenerationOutcome,
  runGeneration,
} from './generation.ts'
import type { BackendContext, Services } from './services.ts'
import { createEventStream } from './sse.ts'

interface PiecePlace {
  readonly isFirst: boolean
  readonly isLast: boolean
}

/** How an operation words its answers; everything else about answering is the same. */
export interface AnswerWording {
  /** A response id is this, `-`, and what follows `req_` in the request id. */
  readonly idPrefix: string
  readonly object: string
  readonly chunkObject: string
  /** What opens each choice of a stream, before the frames of its tokens; null: nothing does. */
  readonly opening: (index: number) => object | null
  /** The part of a choice in a stream that carries text. */
  readonly piece: (index: number, text: string, place: PiecePlace) => object
  /** The part of a choice in a whole answer that carries text. */
  readonly whole: (index: number, text: string) => object
}

interface AnswerOptions {
  readonly isStream: boolean
  readonly includeUsage: boolean
}

/** Runs the job and answers: whole, or as a stream that begins with the first event of the engine. */
export function answerJob(
  c: BackendContext,
  services: Services,
  {
    job,
    wording,
    isStream,
    includeUsage,
  }: AnswerOptions & { job: GenerationJob; wording: AnswerWording },
): Promise<Response> {
  const head = (object: string) => ({
    id: `${wording.idPrefix}-${job.requestId.replace(/^req_/, '')}`,
    object,
    created: Math.floor(services.now() / 1000),
    model: job.model,
    system_fingerprint: `fp_${services.model.digest.slice(2, 12)}`,
  })
  return isStream
    ? answerStream(c, services, { job, wording, includeUsage, head: head(wording.chunkObject) })
    : answerWhole(c, services, { job, wording, head: head(wording.object) })
}

interface Answering {
  readonly job: GenerationJob
  readonly wording: AnswerWording
  /** The fields that every chunk, or the body, begins with. */
  readonly head: object
}

async function answerWhole(
  c: BackendContext,
  services: Services,
  { job, wording, head }: Answering,
): Promise<Response> {
  const texts: string[] = []
  const choices: object[] = []
  const outcome = await runGeneration(services, job, {
    signal: c.req.raw.signal,
    onEvent: (event) => {
      const text = (texts[event.index] ?? '') + event.text
      texts[event.index] = text
      if (event.kind === 'token') return
      choices[event.index] = {
        index: event.index,
        ...wording.whole(event.index, text),
        logprobs: null,
        finish_reason: event.reason,
      }
    },
  })
  const { usage, provenance } = requireCompleted(outcome)
  return c.json({ ...head, choices, usage, tallygate: provenance })
}

/**
 * One frame a sampled token, as the gateway counts them (docs/request-flow.md). The status line
 * waits for the engine's first event, so that a full queue is a plain 429.
 */
async function answerStream(
  c: BackendContext,
  services: Services,
  { job, wording, head, includeUsage }: Answering & { readonly includeUsage: boolean },
): Promise<Response> {
  const stream = createEventStream()
  const usageField = includeUsage ? { usage: null } : {}
  const begun = new Set<number>()
  const sendChoice = (index: number, part: object, reason: FinishReason | null) =>
    stream.send({
      ...head,
      choices: [{ index, ...part, logprobs: null, finish_reason: reason }],
      ...usageField,
    })
  const { promise: firstEvent, resolve: onFirstEvent } = Promise.withResolvers<void>()
  const onEvent = (event: ChoiceEvent) => {
    const { index, text } = event
    const isFirst = !begun.has(index)
    const opening = isFirst ? wording.opening(index) : null
    begun.add(index)
    if (opening) sendChoice(index, opening, null)
    const reason = event.kind === 'finish' ? event.reason : null
    sendChoice(index, wording.piece(index, text, { isFirst, isLast: reason !== null }), reason)
    onFirstEvent()
  }
  const run = async () => {
    const outcome = await runGeneration(services, job, { onEvent, signal: c.req.raw.signal })
    const { usage, provenance } = requireCompleted(outcome)
    if (includeUsage) stream.send({ ...head, choices: [], usage, tallygate: provenance })
    stream.finish()
  }
  const finished = run().catch((thrown: unknown) => {
    if (begun.size === 0) throw thrown
    stream.fail(formatError(toBackendError(thrown)))
  })
  await Promise.race([firstEvent, finished])
  return c.body(stream.body, 200, {
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-cache',
  })
}

function requireCompleted(outcome: GenerationOutcome): { usage: Usage; provenance: Provenance } {
  if (outcome.state === 'completed') return outcome
  throw interrupted(outcome)
}

/** Only a server that shuts down cancels a request whose caller is still there to read this. */
function interrupted(outcome: Exclude<GenerationOutcome, { state: 'completed' }>): BackendError {
  if (outcome.state === 'failed') return outcome.error
  return new BackendError('overloaded', 'The server is shutting down.', { retryAfterMs: 1000 })
}
