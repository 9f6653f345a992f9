import { setMaxListeners } from 'node:events'
import type { MergePlan } from '../../protocol/adapter-merge.ts'
import type { Provenance, Tier, Usage } from '../../protocol/backend.ts'
import type {
  EngineEvent,
  EngineRequest,
  EngineUsage,
  FinishReason,
  SamplingParams,
  TokenLogprob,
} from '../engine/engine-port.ts'
import { BackendError } from '../errors.ts'
import type { ChatPrompt } from '../text/chat-template.ts'
import { toBackendError } from './error-response.ts'
import { leaseModel, type ModelTarget } from './model-target.ts'
import { creditContributors, describeProvenance } from './provenance.ts'
import type { RunningReport } from './report-store.ts'
import { noteEnd, openReport } from './request-record.ts'
import type { Services } from './services.ts'

/** One HTTP request's work: `choiceCount` answers to each prompt. */
export interface GenerationJob
  extends Pick<EngineRequest, 'grammar' | 'topLogprobCount' | 'wantsPromptLogprobs'> {
  readonly requestId: string
  readonly tenant: string
  readonly tier: Tier
  /** As the caller named it. */
  readonly model: string
  /** Adapters to merge over that model; null: none. */
  readonly merge: MergePlan | null
  readonly prompts: readonly (ChatPrompt & { readonly maxTokens: number })[]
  readonly choiceCount: number
  readonly sampling: Omit<SamplingParams, 'seed'>
  /** 64 bits; choices draw from seeds of their own, made from it. */
  readonly seed: bigint
  readonly stop: readonly string[]
}

/** Something for the caller; `index` numbers the choices, prompt by prompt. */
export type ChoiceEvent =
  | {
      readonly kind: 'token'
      readonly index: number
      readonly text: string
      readonly logprobs: readonly TokenLogprob[]
      readonly reason: null
    }
  | {
      readonly kind: 'finish'
      readonly index: number
      readonly text: string
      readonly logprobs: readonly TokenLogprob[]
      readonly reason: FinishReason
    }

/** How a job ended, with what it used until then. */
export type GenerationOutcome =
  | {
      readonly state: 'completed' | 'cancelled'
      readonly usage: Usage
      readonly provenance: Provenance
    }
  | { readonly state: 'failed'; readonly usage: Usage; readonly error: BackendError }

interface GenerationWatch {
  /** Called in the order of each choice's events; those of several choices come interleaved. */
  readonly onEvent: (event: ChoiceEvent) => void
  /** Aborted when nobody waits for the answer any more. */
  readonly signal: AbortSignal
}

interface Choice {
  readonly prompt: GenerationJob['prompts'][number]
  /** Of the first choice of a prompt, which is the one billed for it. */
  readonly isFirst: boolean
  text: string
  usage: EngineUsage
  end: 'finish' | 'cancelled' | 'error' | null
}

interface RunningJob extends GenerationWatch {
  readonly job: GenerationJob
  readonly target: ModelTarget
  readonly choices: readonly Choice[]
  readonly report: RunningReport
}

/**
 * Runs a job to its end, files its report, counts and logs it. Its choices are accepted or refused
 * together; when one fails, or the signal is aborted, the engine drops the others. Throws only when
 * the job could not begin.
 */
export async function runGeneration(
  services: Services,
  job: GenerationJob,
  watch: GenerationWatch,
): Promise<GenerationOutcome> {
  const startedAtMs = services.now()
  refuseTooMany(job, services.maxChoiceCount)
  const target = await leaseModel(
    job,
    services,
    AbortSignal.any([watch.signal, services.shutdownSignal]),
  )
  try {
    const promptTokenCount = job.prompts.reduce((sum, { tokens }) => sum + tokens.length, 0)
    const report = openReport(services, job.requestId, promptTokenCount)
    const running = { ...watch, job, target, report, choices: createChoices(job) }
    const error = await runChoices(services, running).catch(toBackendError)
    const outcome = conclude(services, running, error)
    const { state, usage } = outcome
    const cause = outcome.state === 'failed' ? outcome.error : null
    noteEnd(services, job, { state, usage, error: cause, startedAtMs })
    return outcome
  } finally {
    target.release()
  }
}

/** More than wait together could never be accepted. */
function refuseTooMany({ prompts, choiceCount }: GenerationJob, maxChoiceCount: number): void {
  const count = prompts.length * choiceCount
  if (count <= maxChoiceCount) return
  const param = choiceCount > 1 ? 'n' : 'prompt'
  const of = `${prompts.length} ${prompts.length > 1 ? 'prompts' : 'prompt'} × ${choiceCount}`
  throw new BackendError(
    'invalid_request',
    `'${param}': asks for ${count} answers (${of}); this server takes at most ${maxChoiceCount} in one request`,
    { param },
  )
}

function createChoices(job: GenerationJob): readonly Choice[] {
  return job.prompts.flatMap((prompt) =>
    Array.from({ length: job.choiceCount }, (_, number) => ({
      prompt,
      isFirst: number === 0,
      text: '',
      usage: { promptTokens: 0, cachedTokens: 0, completionTokens: 0 },
      end: null,
    })),
  )
}

/** Runs all choices at once until each has ended; the first failure among them, or null. */
async function runChoices(services: Services, running: RunningJob): Promise<BackendError | null> {
  let failure: BackendError | null = null
  const failed = new AbortController()
  const signal = AbortSignal.any([running.signal, services.shutdownSignal, failed.signal])
  setMaxListeners(0, signal)
  const requests = running.choices.map((choice, index) =>
    planRequest(services, running, choice, index),
  )
  const streams = services.engine.generateTogether(requests, signal)
  const runChoice = async (choice: Choice, index: number) => {
    for await (const event of streams[index] ?? []) {
      recordEvent(choice, event)
      if (event.kind === 'error') throw toEngineError(event)
      if (event.kind === 'token') {
        running.report.countToken()
        const { text, logprobs } = event
        running.onEvent({ kind: 'token', index, text, logprobs, reason: null })
      }
      if (event.kind === 'finish') {
        const { text, logprobs, reason } = event
        running.onEvent({ kind: 'finish', index, text, logprobs, reason })
      }
    }
    if (choice.end === null) throw new Error('the engine ended a request without saying how')
  }
  await Promise.all(
    running.choices.map((choice, index) =>
      runChoice(choice, index).catch((thrown: unknown) => {
        failure ??= toBackendError(thrown)
        failed.abort()
      }),
    ),
  )
  return failure
}

/** The odd constant of splitmix64: seeds that lie far apart, the first of them the job's own. */
const SEED_STEP = 0x9e3779b97f4a7c15n

function planRequest(
  services: Services,
  { job, target, choices }: RunningJob,
  { prompt }: Choice,
  index: number,
): EngineRequest {
  const seed = job.seed + BigInt(index) * SEED_STEP
  const seedWords = [
    Number(BigInt.asUintN(32, seed)),
    Number(BigInt.asUintN(32, seed >> 32n)),
  ] as const
  return {
    id: choices.length === 1 ? job.requestId : `${job.requestId}#${index}`,
    tenant: job.tenant,
    tier: job.tier,
    promptTokens: prompt.tokens,
    adapter: target.adapter?.digest ?? null,
    maxTokens: prompt.maxTokens,
    sampling: { ...job.sampling, seed: seedWords },
    stop: job.stop,
    stopTokenIds: services.model.stopTokenIds,
    grammar: job.grammar,
    topLogprobCount: job.topLogprobCount,
    wantsPromptLogprobs: job.wantsPromptLogprobs,
  }
}

/** Tokens are counted as they come, so that an engine that dies leaves a true count behind. */
function recordEvent(choice: Choice, event: EngineEvent): void {
  if (event.kind === 'token' || event.kind === 'finish') choice.text += event.text
  if (event.kind === 'token') {
    choice.usage = {
      promptTokens: choice.prompt.tokens.length,
      cachedTokens: 0,
      completionTokens: choice.usage.completionTokens + 1,
    }
    return
  }
  choice.usage = event.usage
  choice.end = event.kind
}

export function toEngineError(event: Extract<EngineEvent, { kind: 'error' }>): BackendError {
  switch (event.code) {
    case 'overloaded':
      return new BackendError('overloaded', event.message, {
        retryAfterMs: event.retryAfterMs ?? 1000,
      })
    case 'context_length_exceeded':
      return new BackendError('context_length_exceeded', event.message)
    case 'adapter_missing':
    case 'internal_error':
      return toBackendError(new Error(event.message))
  }
}

/** Files the report and says how the job ended. A failing attributor fails the request, never its count. */
function conclude(
  services: Services,
  { job, target, choices, report }: RunningJob,
  error: BackendError | null,
): GenerationOutcome {
  const usage = sumUsage(choices)
  const request = {
    modelDigest: services.model.digest,
    adapter: target.adapter,
    prompts: job.prompts.map((prompt) => prompt.text),
    answers: choices.map((choice) => choice.text),
  }
  const uncredited = describeProvenance(request)
  try {
    const provenance = creditContributors(uncredited, request)
    if (error) {
      report.end('failed', usage, provenance)
      return { state: 'failed', usage, error }
    }
    const isCut = choices.some((choice) => choice.end === 'cancelled')
    const state = isCut ? 'cancelled' : 'completed'
    report.end(state, usage, provenance)
    return { state, usage, provenance }
  } catch (thrown) {
    report.end('failed', usage, uncredited)
    return { state: 'failed', usage, error: toBackendError(thrown) }
  }
}

/** Prompts are counted once, however many choices they have; so is what the cache held of them. */
function sumUsage(choices: readonly Choice[]): Usage {
  let promptTokens = 0
  let cachedTokens = 0
  let completionTokens = 0
  for (const { isFirst, usage } of choices) {
    completionTokens += usage.completionTokens
    if (!isFirst) continue
    promptTokens += usage.promptTokens
    cachedTokens += usage.cachedTokens
  }
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  }
}
