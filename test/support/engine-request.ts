import type { EngineRequest, SamplingParams } from '../../gpu-backend/engine/engine-port.ts'

export const GREEDY: SamplingParams = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
  repetitionPenalty: 1,
  logitBias: [],
  seed: [1, 2],
}

/** A greedy request of eight tokens, where the test does not say otherwise. */
export function engineRequest(fields: Partial<EngineRequest> & { id: string }): EngineRequest {
  return {
    tenant: 'tenant',
    tier: 'standard',
    promptTokens: [1, 2, 3],
    adapter: null,
    maxTokens: 8,
    sampling: GREEDY,
    stop: [],
    stopTokenIds: [],
    grammar: null,
    topLogprobCount: null,
    wantsPromptLogprobs: false,
    ...fields,
  }
}
