import { ApiError } from '../errors.ts'
import {
  isJsonObject,
  type JsonObject,
  parseJsonObject,
  publishAttribution,
  readProvenance,
  readUsage,
} from './answer-parts.ts'
import { createAnswerRecorder } from './answer-recorder.ts'
import type { GenerationRequest } from './generation-request.ts'
import { type Evidence, estimateTokenCount, type RelayEnding } from './meter-ending.ts'
import { composeQueueHeader, watchProgress } from './queue-position.ts'
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

/**
 * An answer that takes longer gets its status 200 in advance and blanks before its JSON, so that a
 * client that leaves is noticed. Quick answers and their errors keep their status.
 */
const COMMIT_AFTER_MS = 800

const encoder = new TextEncoder()
const BLANK = encoder.encode(' ')
const HEADERS = { 'content-type': 'application/json' }

/**
 * Relays an answer in one piece, settled before it goes out. Settles exactly once, however it ends;
 * throws an ApiError, already settled, for a failure before the response began. A failure after
 * that breaks the connection off: no client may take what it got for an answer.
 */
export async function relayBody(job: RelayJob): Promise<Response> {
  const line = createRelayLine({
    clientSignal: job.clientSignal,
    blank: BLANK,
    maxUpstreamSilenceMs: job.maxUpstreamSilenceMs,
    opensWithinMs: COMMIT_AFTER_MS,
    outlivesClient: job.outlivesClient,
  })
  const work = fetchAndSettle(job, line)
  const early = await waitAtMost(work, COMMIT_AFTER_MS)
  if (early === null) {
    const queueHeader = await composeQueueHeader(job)
    const body = line.open()
    job.waitUntil(work.then((answer) => finishLate(line, answer)))
    job.waitUntil(watchProgress(job, line, work))
    return new Response(body, { headers: { ...HEADERS, ...queueHeader } })
  }
  line.quieten()
  switch (early.outcome) {
    case 'answer':
      return new Response(early.text, { headers: { ...HEADERS, ...composeTiming(job) } })
    case 'client_left':
      return respondToNobody()
    case 'failed':
      throw early.error
  }
}

type Answer =
  | { readonly outcome: 'answer'; readonly text: string }
  | { readonly outcome: 'client_left' }
  | { readonly outcome: 'failed'; readonly error: ApiError }

/** Never throws. */
async function fetchAndSettle(job: RelayJob, line: RelayLine): Promise<Answer> {
  const fetched = await fetchAnswer(job, line)
  const { ending, text, body } = fetched
  let published = ending.how === 'whole' ? publishBody(job, body, text) : ''
  const { wording } = job.request
  const settled = await settleRelay(job, ending, {
    ...gatherEvidence(job, fetched),
    prepare: async (billed) => {
      if (wording === undefined) return
      wording.readBody(body)
      await wording.prepare({ usage: billed, ...parseJsonObject(published) })
      published = wording.body()
    },
    composeAnswer: () =>
      createAnswerRecorder(HEADERS['content-type']).compose(encoder.encode(published)),
  })
  if (ending.how === 'client_left') return { outcome: 'client_left' }
  if (ending.how === 'failed') return { outcome: 'failed', error: ending.error }
  if (settled.outcome === 'left_to_sweep') {
    return { outcome: 'failed', error: new ApiError('internal_error') }
  }
  return { outcome: 'answer', text: published }
}

interface FetchedAnswer {
  readonly ending: RelayEnding
  readonly text: string
  readonly body: JsonObject
}

async function fetchAnswer(job: RelayJob, line: RelayLine): Promise<FetchedAnswer> {
  try {
    const response = await sendJob(job, line)
    const text = await response.text()
    const body = parseJsonObject(text)
    if (body === null) throw new Error('The backend answered with no JSON object.')
    return { ending: { how: 'whole' }, text, body }
  } catch (error) {
    return { ending: explainFailure(line, error), text: '', body: {} }
  }
}

function gatherEvidence(job: RelayJob, { body }: FetchedAnswer): Evidence {
  return {
    usage: readUsage(adaptUsage(job.request.endpoint, body.usage)),
    provenance: readProvenance(body.tallygate),
    tokenCount: estimateTokenCount(measureAnswer(body)),
    estimatedPromptTokens: estimateTokenCount(job.request.bodyBytes.length),
  }
}

/** Most servers' usage of embeddings does not name the answer's tokens: there are none. Tokenizing computes none at all. */
function adaptUsage(endpoint: GenerationRequest['endpoint'], usage: unknown): unknown {
  switch (endpoint) {
    case 'embeddings':
      return isJsonObject(usage) ? { ...usage, completion_tokens: 0 } : usage
    case 'tokenize':
    case 'detokenize':
      return { prompt_tokens: 0, completion_tokens: 0 }
    default:
      return usage
  }
}

/** UTF-8 bytes of all choices' text, tool calls and reasoning as they stand in the message. */
function measureAnswer(body: JsonObject): number {
  const choices = Array.isArray(body.choices) ? body.choices.filter(isJsonObject) : []
  const texts = choices.flatMap(({ message, text }) => {
    if (!isJsonObject(message)) return [text]
    return [message.content, message.reasoning_content, JSON.stringify(message.tool_calls)]
  })
  return texts.reduce(
    (size: number, text) => size + (typeof text === 'string' ? encoder.encode(text).length : 0),
    0,
  )
}

/** The body as this caller may see it: the backend's own text, but for its provenance. */
function publishBody(job: RelayJob, body: JsonObject, text: string): string {
  if (body.tallygate === undefined) return text
  const { tallygate, ...rest } = body
  const provenance = job.request.wantsAttribution ? readProvenance(tallygate) : null
  return JSON.stringify(
    provenance === null ? rest : { ...rest, tallygate: publishAttribution(provenance) },
  )
}

async function finishLate(line: RelayLine, answer: Answer): Promise<void> {
  if (answer.outcome !== 'answer') return line.breakOff()
  await line.write(encoder.encode(answer.text)).catch(() => {}) // a client that left now is settled already
  await line.close()
}
