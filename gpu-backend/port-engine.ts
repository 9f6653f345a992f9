import type { LoraWeights } from './adapters/lora-weights.ts'
import type { EngineStats } from './engine/engine-port.ts'
import type { EngineHandle } from './engine-handle.ts'
import type {
  EngineCommand,
  EngineFault,
  EngineReport,
  MessageChannelEnd,
} from './engine-messages.ts'
import { createLiveRequests } from './live-requests.ts'

export interface PortEngine extends EngineHandle {
  /** The other end is gone: every live request ends with `internal_error`, every call rejects, now and later. */
  readonly fail: (error: Error) => void
}

interface PendingCall {
  readonly resolve: (stats: EngineStats) => void
  readonly reject: (error: Error) => void
}

/** The engine that `serveEngine` runs at the other end of the channel. */
export function createPortEngine(
  channel: MessageChannelEnd<EngineReport, EngineCommand>,
  onFault: (fault: EngineFault) => void,
): PortEngine {
  const live = createLiveRequests((command) => channel.postMessage(command))
  const calls = new Map<number, PendingCall>()
  let nextCallId = 0
  let failure: Error | null = null

  channel.on('message', (report) => {
    switch (report.kind) {
      case 'events':
        for (const event of report.events) live.deliver(event)
        break
      case 'fault':
        onFault(report.fault)
        break
      case 'done':
        calls.get(report.callId)?.resolve(report.stats)
        calls.delete(report.callId)
        break
      case 'refused':
        calls.get(report.callId)?.reject(new Error(report.message))
        calls.delete(report.callId)
    }
  })

  function call(
    buildCommand: (callId: number) => EngineCommand,
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<EngineStats> {
    return new Promise((resolve, reject) => {
      if (failure !== null) throw failure
      const callId = nextCallId++
      channel.postMessage(buildCommand(callId), transfer)
      calls.set(callId, { resolve, reject })
    })
  }

  return {
    generate: live.open,
    generateTogether: live.openTogether,
    async loadAdapter(weights) {
      await call((callId) => ({ kind: 'load_adapter', callId, weights }), listBuffers(weights))
    },
    async unloadAdapter(digest) {
      await call((callId) => ({ kind: 'unload_adapter', callId, digest }))
    },
    stats: () => call((callId) => ({ kind: 'stats', callId })),
    async close() {
      live.cancelAll()
      await call((callId) => ({ kind: 'close', callId }))
    },
    fail(error) {
      failure ??= error
      live.failAll()
      for (const { reject } of calls.values()) reject(failure)
      calls.clear()
    },
  }
}

/** Each buffer of the adapter once, to be moved: the arrays of one file may share one. */
function listBuffers({ modules }: LoraWeights): readonly ArrayBuffer[] {
  const buffers = new Set<ArrayBuffer>()
  for (const { a, b } of modules.values()) {
    for (const { buffer } of [a, b]) if (buffer instanceof ArrayBuffer) buffers.add(buffer)
  }
  return [...buffers]
}
