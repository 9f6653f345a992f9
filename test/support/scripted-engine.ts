import type { LoraWeights } from '../../gpu-backend/adapters/lora-weights.ts'
import type { EngineEvent, EngineRequest } from '../../gpu-backend/engine/engine-port.ts'
import type { EngineHandle } from '../../gpu-backend/engine-handle.ts'

/** An engine without a model: it says what a script says, one piece a token. */
export interface ScriptedEngine extends EngineHandle {
  readonly requests: readonly EngineRequest[]
  readonly loadedDigests: ReadonlySet<string>
  /** How requests ended, by id. */
  readonly ends: ReadonlyMap<string, 'finish' | 'cancelled' | 'error'>
  /** Resolves when the request has ended. */
  readonly waitForEnd: (id: string) => Promise<'finish' | 'cancelled' | 'error'>
}

export interface EngineScript {
  /** The pieces of an answer; it ends after them with `stop`, or with `length` at `maxTokens`. */
  readonly answer?: (request: EngineRequest) => readonly string[]
  /** Awaited before each token: lets a test hold a request at a token. */
  readonly beforeToken?: (request: EngineRequest, tokenIndex: number) => Promise<void> | undefined
  /** An error in place of the token of this number. */
  readonly failAt?: (
    request: EngineRequest,
    tokenIndex: number,
  ) =>
    | Pick<Extract<EngineEvent, { kind: 'error' }>, 'code' | 'message' | 'retryAfterMs'>
    | undefined
  readonly loadAdapter?: (weights: LoraWeights) => Promise<void>
}

export function createScriptedEngine(script: EngineScript = {}): ScriptedEngine {
  const requests: EngineRequest[] = []
  const loadedDigests = new Set<string>()
  const ends = new Map<string, 'finish' | 'cancelled' | 'error'>()
  const endWaiters = new Map<string, PromiseWithResolvers<'finish' | 'cancelled' | 'error'>>()
  const waiter = (id: string) => {
    const found = endWaiters.get(id) ?? Promise.withResolvers()
    endWaiters.set(id, found)
    return found
  }
  let runningCount = 0

  async function* run(request: EngineRequest, signal: AbortSignal): AsyncGenerator<EngineEvent> {
    const { id } = request
    const pieces = script.answer?.(request) ?? ['Hello', ' wor', 'ld']
    const usage = {
      promptTokens: request.promptTokens.length,
      cachedTokens: 0,
      completionTokens: 0,
    }
    for (const [index, text] of pieces.slice(0, request.maxTokens).entries()) {
      await abortable(script.beforeToken?.(request, index), signal)
      if (signal.aborted) return yield { kind: 'cancelled', id, usage }
      const error = script.failAt?.(request, index)
      if (error) return yield { kind: 'error', id, usage, ...error }
      usage.completionTokens += 1
      yield { kind: 'token', id, tokenId: index, text, logprobs: [] }
    }
    const isCut = pieces.length > request.maxTokens
    if (!isCut) usage.completionTokens += 1
    yield { kind: 'finish', id, reason: isCut ? 'length' : 'stop', text: '', logprobs: [], usage }
  }

  async function* generate(
    request: EngineRequest,
    signal: AbortSignal,
  ): AsyncGenerator<EngineEvent> {
    requests.push(request)
    if (request.adapter !== null && !loadedDigests.has(request.adapter)) {
      throw new Error('the adapter is not loaded')
    }
    runningCount += 1
    try {
      for await (const event of run(request, signal)) {
        if (event.kind !== 'token') {
          ends.set(request.id, event.kind)
          waiter(request.id).resolve(event.kind)
        }
        yield event
      }
    } finally {
      runningCount -= 1
    }
  }

  return {
    requests,
    loadedDigests,
    ends,
    waitForEnd: (id) => waiter(id).promise,
    generate,
    generateTogether: (all, signal) => all.map((request) => generate(request, signal)),
    loadAdapter: async (weights) => {
      await script.loadAdapter?.(weights)
      if (loadedDigests.has(weights.digest)) throw new Error('the adapter is loaded already')
      loadedDigests.add(weights.digest)
    },
    unloadAdapter: async (digest) => {
      if (!loadedDigests.delete(digest)) throw new Error('the adapter is not loaded')
    },
    stats: async () => ({
      runningCount,
      waitingIds: [],
      waitingCount: 0,
      stepCount: 0,
      promptTokenCount: 0,
      completionTokenCount: 0,
      prefixQueryTokenCount: 0,
      prefixHitTokenCount: 0,
      preemptionCount: 0,
      kvUsedTokens: 0,
      kvCachedTokens: 0,
      kvTotalTokens: 1024,
      loadedAdapterCount: loadedDigests.size,
    }),
    close: async () => undefined,
  }
}

/** Waits for the promise, or for the signal. */
async function abortable(promise: Promise<void> | undefined, signal: AbortSignal): Promise<void> {
  if (!promise || signal.aborted) return
  const { promise: aborted, resolve } = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => resolve(), { once: true })
  await Promise.race([promise, aborted])
}
