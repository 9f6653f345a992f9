import { setImmediate, setTimeout } from 'node:timers/promises'
import type { LoraWeights } from './adapters/lora-weights.ts'
import { Engine } from './engine/engine.ts'
import type { EngineParts } from './engine/engine-parts.ts'
import type { EngineEvent } from './engine/engine-port.ts'
import type { EngineCommand, EngineReport, MessageChannelEnd } from './engine-messages.ts'

/** The part of the runner that holds adapters; called between two steps only. */
export interface AdapterSlots {
  readonly loadAdapter: (weights: LoraWeights) => Promise<void> | void
  readonly unloadAdapter: (digest: string) => Promise<void> | void
}

export interface ServedEngine {
  readonly parts: Omit<EngineParts, 'adapters' | 'emit' | 'onFault'>
  readonly slots: AdapterSlots
}

/** Between two looks at masks that nothing can go on without. */
const MASK_POLL_MS = 1

export type EngineChannel = MessageChannelEnd<EngineCommand, EngineReport>

/**
 * Runs the engine for whoever is at the other end of the channel, until told to close: a step,
 * a look at the messages, the next step; asleep while there is nothing to do.
 */
export async function serveEngine(channel: EngineChannel, served: ServedEngine): Promise<void> {
  const outbox: EngineEvent[] = []
  const adapters = new Set<string>()
  const betweenSteps: AdapterCommand[] = []
  let closeCallId: number | null = null
  let wake = () => {}

  const engine = new Engine({
    ...served.parts,
    adapters,
    emit: (event) => outbox.push(event),
    onFault: (error, requestIds) => {
      const detail = (error instanceof Error && error.stack) || String(error)
      channel.postMessage({ kind: 'fault', fault: { detail, requestIds } })
    },
  })
  const flush = () => {
    if (outbox.length > 0) channel.postMessage({ kind: 'events', events: outbox.splice(0) })
  }
  const answer = (callId: number) =>
    channel.postMessage({ kind: 'done', callId, stats: engine.stats })

  channel.on('message', (command) => {
    switch (command.kind) {
      case 'submit':
        engine.submit(...command.requests)
        break
      case 'cancel':
        engine.cancel(command.id)
        break
      case 'stats':
        answer(command.callId)
        break
      case 'close':
        closeCallId = command.callId
        break
      default:
        betweenSteps.push(command)
    }
    flush()
    wake()
  })

  while (closeCallId === null || engine.hasWork) {
    for (let next = betweenSteps.shift(); next !== undefined; next = betweenSteps.shift()) {
      const refusal = await changeAdapters(next, adapters, served.slots)
      if (refusal === null) answer(next.callId)
      else channel.postMessage({ kind: 'refused', callId: next.callId, message: refusal })
    }
    if (engine.hasWork) {
      const hasRun = await engine.step()
      flush()
      await (hasRun ? setImmediate() : setTimeout(MASK_POLL_MS))
    } else if (closeCallId === null) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }
  answer(closeCallId)
}

type AdapterCommand = Extract<EngineCommand, { kind: 'load_adapter' | 'unload_adapter' }>

/** Null, or why it could not be done. Loading what is loaded changes nothing. */
async function changeAdapters(
  command: AdapterCommand,
  adapters: Set<string>,
  slots: AdapterSlots,
): Promise<string | null> {
  try {
    if (command.kind === 'load_adapter') {
      const { digest } = command.weights
      if (adapters.has(digest)) return null
      await slots.loadAdapter(command.weights)
      adapters.add(digest)
      return null
    }
    if (!adapters.delete(command.digest)) return `The adapter ${command.digest} is not loaded.`
    await slots.unloadAdapter(command.digest)
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
