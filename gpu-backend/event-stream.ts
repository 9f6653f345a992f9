import type { EngineEvent } from './engine/engine-port.ts'

/** The events of one request between the thread that makes them and the one reader that awaits them. */
export interface EventStream extends AsyncIterableIterator<EngineEvent, undefined> {
  /** Appends an event; after a `finish`, `cancelled` or `error`, and after the reader left, nothing is appended any more. */
  readonly push: (event: EngineEvent) => void
  readonly return: () => Promise<IteratorReturnResult<undefined>>
}

/** `onAbandon` is called once if the reader leaves before the last event was pushed. */
export function createEventStream(onAbandon: () => void): EventStream {
  const events: EngineEvent[] = []
  const readers: ((result: IteratorResult<EngineEvent, undefined>) => void)[] = []
  let isComplete = false

  function push(event: EngineEvent): void {
    if (isComplete) return
    isComplete = event.kind !== 'token'
    const reader = readers.shift()
    if (reader === undefined) events.push(event)
    else reader({ done: false, value: event })
    if (isComplete) dismissReaders()
  }

  function dismissReaders(): void {
    for (const reader of readers.splice(0)) reader(DONE)
  }

  async function next(): Promise<IteratorResult<EngineEvent, undefined>> {
    const event = events.shift()
    if (event !== undefined) return { done: false, value: event }
    if (isComplete) return DONE
    return new Promise((resolve) => readers.push(resolve))
  }

  async function leave(): Promise<IteratorReturnResult<undefined>> {
    events.length = 0
    if (!isComplete) {
      isComplete = true
      onAbandon()
      dismissReaders()
    }
    return DONE
  }

  const stream: EventStream = {
    push,
    next,
    return: leave,
    [Symbol.asyncIterator]: () => stream,
  }
  return stream
}

const DONE = { done: true, value: undefined } as const
