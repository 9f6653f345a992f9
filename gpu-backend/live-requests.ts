import assert from 'node:assert/strict'
import type { EngineEvent, EngineRequest } from './engine/engine-port.ts'
import { NO_USAGE } from './engine/sequence.ts'
import type { EngineCommand } from './engine-messages.ts'
import { createEventStream, type EventStream } from './event-stream.ts'

/** The requests that the engine thread works on, as the HTTP thread sees them. */
export interface LiveRequests {
  /** Submits at once, not at the first read. Throws when the id is live. */
  readonly open: (request: EngineRequest, signal: AbortSignal) => AsyncIterable<EngineEvent>
  /** The same of several, which the engine accepts or refuses together. */
  readonly openTogether: (
    requests: readonly EngineRequest[],
    signal: AbortSignal,
  ) => readonly AsyncIterable<EngineEvent>[]
  readonly deliver: (event: EngineEvent) => void
  readonly cancelAll: () => void
  /** Ends every request, and each later one, with `internal_error`. */
  readonly failAll: () => void
}

interface LiveRequest {
  readonly request: EngineRequest
  readonly stream: EventStream
  readonly stopListening: () => void
  /** Tokens that arrived: all that can be billed should the engine die. */
  tokenCount: number
}

export function createLiveRequests(post: (command: EngineCommand) => void): LiveRequests {
  const live = new Map<string, LiveRequest>()
  let isFailed = false

  function openTogether(
    requests: readonly EngineRequest[],
    signal: AbortSignal,
  ): readonly AsyncIterable<EngineEvent>[] {
    for (const { id } of requests) assert(!live.has(id), `request ${id} is live already`)
    const streams = requests.map((request) => openStream(request, signal))
    if (!isFailed && !signal.aborted) post({ kind: 'submit', requests })
    return streams
  }

  function openStream(request: EngineRequest, signal: AbortSignal): EventStream {
    const { id } = request
    const cancel = () => post({ kind: 'cancel', id })
    const stream = createEventStream(cancel)
    if (isFailed || signal.aborted) {
      stream.push(isFailed ? failureOf(request, 0) : { kind: 'cancelled', id, usage: NO_USAGE })
      return stream
    }
    signal.addEventListener('abort', cancel, { once: true })
    const stopListening = () => signal.removeEventListener('abort', cancel)
    live.set(id, { request, stream, stopListening, tokenCount: 0 })
    return stream
  }

  function open(request: EngineRequest, signal: AbortSignal): AsyncIterable<EngineEvent> {
    const [stream] = openTogether([request], signal)
    assert(stream, 'a request has a stream')
    return stream
  }

  function deliver(event: EngineEvent): void {
    const entry = live.get(event.id)
    if (entry === undefined) return
    if (event.kind === 'token') {
      entry.tokenCount++
    } else {
      entry.stopListening()
      live.delete(event.id)
    }
    entry.stream.push(event)
  }

  return {
    open,
    openTogether,
    deliver,
    cancelAll: () => {
      for (const id of live.keys()) post({ kind: 'cancel', id })
    },
    failAll: () => {
      isFailed = true
      for (const { request, tokenCount } of live.values()) deliver(failureOf(request, tokenCount))
    },
  }
}

function failureOf({ id, promptTokens }: EngineRequest, tokenCount: number): EngineEvent {
  return {
    kind: 'error',
    id,
    code: 'internal_error',
    message: 'The engine stopped.',
    retryAfterMs: null,
    usage: {
      promptTokens: tokenCount > 0 ? promptTokens.length : 0,
      cachedTokens: 0,
      completionTokens: tokenCount,
    },
  }
}
