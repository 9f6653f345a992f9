import { setMaxListeners } from 'node:events'
import type { MergePlan } from '../../protocol/adapter-merge.ts'
import type { Provenance, Tier, Usage } from '../../protocol/backend.ts'
import type { EngineEvent, EngineRequest } from '../engine/engine-port.ts'
import { BackendError } from '../errors.ts'
import type { ChatPrompt } from '../text/chat-template.ts'
import { toBackendError } from './error-response.ts'
import { toEngineError } from './generation.ts'
import { leaseModel, type ModelTarget } from './model-target.ts'
import { describeProvenance } from './provenance.ts'
import { noteEnd, openReport } from './request-record.ts'
import type { Services } from './services.ts'

/** One HTTP request's inputs. */
export interface EmbeddingJob {
  readonly requestId: string
  readonly tenant: string
  readonly tier: Tier
  /** As the caller named it. */
  readonly model: string
  /** Adapters to merge over that model; null: none. */
  readonly merge: MergePlan | null
  readonly inputs: readonly ChatPrompt[]
  /** What becomes of the mean state [H] of an input: the vector as base64. */
  readonly finish: (mean: Float32Array) => string
}

interface Embedded {
  /** In the order of the inputs. */
  readonly vectors: readonly string[]
  readonly usage: Usage
  readonly provenance: Provenance
}

/** Runs a job to its end, files its report, counts and logs it. Throws {@link BackendError}. */
export async function embedInputs(
  services: Services,
  job: EmbeddingJob,
  callerSignal: AbortSignal,
): Promise<Embedded> {
  const startedAtMs = services.now()
  const waitSignal = AbortSignal.any([callerSignal, services.shutdownSignal])
  const target = await leaseModel(job, services, waitSignal)
  try {
    const tokenCount = job.inputs.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const report = openReport(services, job.requestId, tokenCount)
    const run = await runInputs(services, { job, target, callerSignal })
    const usage = countUsage(run.promptTokens)
    const provenance = describeProvenance({
      modelDigest: services.model.digest,
      adapter: target.adapter,
      prompts: job.inputs.map(({ text }) => text),
      answers: run.vectors,
    })
    const state = run.error ? 'failed' : run.isCut ? 'cancelled' : 'completed'
    report.end(state, usage, provenance)
    noteEnd(services, job, { state, usage, error: run.error, startedAtMs })
    if (run.error) throw run.error
    if (run.isCut) {
      throw new BackendError('overloaded', 'The server is shutting down.', { retryAfterMs: 1000 })
    }
    return { vectors: run.vectors, usage, provenance }
  } finally {
    target.release()
  }
}

interface RunningJob {
  readonly job: EmbeddingJob
  readonly target: ModelTarget
  readonly callerSignal: AbortSignal
}

/** Runs all inputs, which the engine accepts or refuses together, until all are done or one has failed. */
async function runInputs(services: Services, { job, target, callerSignal }: RunningJob) {
  const failed = new AbortController()
  const signal = AbortSignal.any([callerSignal, services.shutdownSignal, failed.signal])
  setMaxListeners(0, signal)
  const vectors: string[] = []
  let promptTokens = 0
  let error: BackendError | null = null
  let isCut = false
  const requests = job.inputs.map((input, index) => planRequest(job, target, input, index))
  const streams = services.engine.generateTogether(requests, signal)
  const runInput = async (stream: AsyncIterable<EngineEvent>, index: number) => {
    for await (const event of stream) {
      if (event.kind === 'token') throw new Error('an embedding sampled a token')
      promptTokens += event.usage.promptTokens
      if (event.kind === 'error') throw toEngineError(event)
      if (event.kind === 'cancelled') isCut = true
      else if (event.embedding) vectors[index] = job.finish(event.embedding)
      else throw new Error('the engine gave no embedding')
    }
  }
  await Promise.all(
    streams.map((stream, index) =>
      runInput(stream, index).catch((thrown: unknown) => {
        error ??= toBackendError(thrown)
        failed.abort()
      }),
    ),
  )
  return { vectors, promptTokens, error: error as BackendError | null, isCut } // set in a callback
}

function planRequest(
  job: EmbeddingJob,
  target: ModelTarget,
  input: ChatPrompt,
  index: number,
): EngineRequest {
  return {
    id: job.inputs.length === 1 ? job.requestId : `${job.requestId}#${index}`,
    tenant: job.tenant,
    tier: job.tier,
    promptTokens: input.tokens,
    adapter: target.adapter?.digest ?? null,
    maxTokens: 0,
    sampling: NOTHING_SAMPLED,
    stop: [],
    stopTokenIds: [],
    grammar: null,
    topLogprobCount: null,
    wantsPromptLogprobs: false,
    embed: true,
  }
}

const NOTHING_SAMPLED: EngineRequest['sampling'] = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  logitBias: [],
  seed: [0, 0],
}

function countUsage(promptTokens: number): Usage {
  return { prompt_tokens: promptTokens, completion_tokens: 0, total_tokens: promptTokens }
}
