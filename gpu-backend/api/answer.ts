import type { Provenance, Usage } from '../../protocol/backend.ts'
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

/** How an operation words its answers; everything else about answering is the same. */
export interface AnswerWording {
  /** A response id is this, `-`, and what follows `req_` in the request id. */
  readonly idPrefix: string
  readonly object: string
  readonly chunkObject: string
  readonly createChoice: (index: number) => ChoiceWording
}

/** Words one choice, event by event; `index` is not its affair. */
export interface ChoiceWording {
  /** What opens the choice in a stream, before the frames of its tokens; null: nothing does. */
  readonly opening: object | null
  /** What a frame of a stream tells of the event. */
  readonly piece: (event: ChoiceEvent) => object
  /** What a whole answer tells, when `piece` has seen every event. */
  readonly whole: () => object
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
  const choices = createChoices(job, wording)
  const outcome = await runGeneration(services, job, {
    signal: c.req.raw.signal,
    onEvent: (event) => void choices[event.index]?.piece(event),
  })
  const { usage, provenance } = requireCompleted(outcome)
  return c.json({
    ...head,
    choices: choices.map((choice, index) => ({ index, ...choice.whole() })),
    usage,
    tallygate: provenance,
  })
}

function createChoices(job: GenerationJob, wording: AnswerWording): readonly ChoiceWording[] {
  const choiceCount = job.prompts.length * job.choiceCount
  return Array.from({ length: choiceCount }, (_, index) => wording.createChoice(index))
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
  const choices = createChoices(job, wording)
  const begun = new Set<number>()
  const sendChoice = (index: number, choice: object) =>
    stream.send({ ...head, choices: [{ index, ...choice }], ...usageField })
  const { promise: firstEvent, resolve: onFirstEvent } = Promise.withResolvers<void>()
  const onEvent = (event: ChoiceEvent) => {
    const { index } = event
    const choice = choices[index]
    if (!choice) throw new Error('an event of no choice')
    if (!begun.has(index) && choice.opening) sendChoice(index, choice.opening)
    begun.add(index)
    sendChoice(index, choice.piece(event))
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
