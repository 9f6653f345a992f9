import type { EngineErrorCode, EngineRequest } from './engine-port.ts'
import type { ModelRunner } from './model-runner.ts'

/** Longest prompt and answer together: what the model was made for, or less where the KV cache is smaller. */
export function findMaxSequenceTokens(runner: ModelRunner): number {
  return Math.min(runner.contextLength, runner.kvPageCount * runner.kvPageTokens)
}

export interface ServedModel {
  readonly vocabSize: number
  /** See {@link findMaxSequenceTokens}. */
  readonly maxSequenceTokens: number
  /** Digests of the loaded adapters. */
  readonly adapters: ReadonlySet<string>
}

export interface Refusal {
  readonly code: EngineErrorCode
  readonly message: string
}

/** Why the request can never run, whatever else runs; null when it can. */
export function findRefusal(request: EngineRequest, model: ServedModel): Refusal | null {
  const fault = findFault(request, model.vocabSize)
  if (fault !== null) return { code: 'internal_error', message: fault }
  if (request.adapter !== null && !model.adapters.has(request.adapter)) {
    return { code: 'adapter_missing', message: `The adapter ${request.adapter} is not loaded.` }
  }
  const promptCount = request.promptTokens.length
  const totalCount = promptCount + request.maxTokens
  if (totalCount <= model.maxSequenceTokens) return null
  return {
    code: 'context_length_exceeded',
    message: `This model takes at most ${model.maxSequenceTokens} tokens, but ${totalCount} were asked for (${promptCount} in the prompt, ${request.maxTokens} for the answer).`,
  }
}

/** What the HTTP side should have refused: it would fail a whole step, or never end. */
function findFault(request: EngineRequest, vocabSize: number): string | null {
  const isToken = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize
  const { promptTokens, maxTokens, sampling } = request
  if (promptTokens.length === 0) return 'promptTokens is empty'
  const badToken = promptTokens.find((id) => !isToken(id))
  if (badToken !== undefined)
    return `promptTokens holds ${badToken}, not one of ${vocabSize} tokens`
  const badBias = sampling.logitBias.find(([id]) => !isToken(id))
  if (badBias !== undefined) return `logitBias names ${badBias[0]}, not one of ${vocabSize} tokens`
  if (!Number.isSafeInteger(maxTokens) || maxTokens < 0) return `maxTokens is ${maxTokens}, not ≥ 0`
  if (!(sampling.temperature >= 0)) return `temperature is ${sampling.temperature}, not ≥ 0`
  if (!(sampling.repetitionPenalty > 0)) {
    return `repetitionPenalty is ${sampling.repetitionPenalty}, not above 0`
  }
  return null
}
