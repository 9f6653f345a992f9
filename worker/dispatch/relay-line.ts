/** Why a relay stopped before its upstream was through. */
export type StopReason = 'client_left' | 'upstream_silent'

/**
 * The line between one client and one upstream: whichever end fails, the other is told. While
 * nothing is to be said to the client it is sent blanks, because a client that left is noticed only
 * by a write that fails (workerd does not report a closed socket while nothing is written).
 */
export interface RelayLine {
  /** Ends the upstream call when the relay stops. */
  readonly upstreamSignal: AbortSignal
  /** Null while the relay is under way. */
  readonly stopReason: () => StopReason | null
  /** The status and the headers of the answer have gone out. */
  readonly isOpen: () => boolean
  /** Resets the upstream's silence. */
  readonly noteUpstream: () => void
  /** The response body; from this call on blanks are sent. At most once, and before anything is written. */
  readonly open: () => ReadableStream<Uint8Array>
  /** Resolves when the client's side has taken the bytes; throws when the client left. */
  readonly write: (bytes: Uint8Array) => Promise<void>
  /** No blanks from here on, and no watch over the upstream; the line can still be written to. */
  readonly quieten: () => void
  /** Ends the response as it should end. Never throws. */
  readonly close: () => Promise<void>
  /** Ends the connection in mid-body, so that no client takes what it got for an answer. Never throws. */
  readonly breakOff: () => Promise<void>
}

export interface RelayLineOptions {
  readonly clientSignal: AbortSignal
  /** What a client of this content skips. */
  readonly blank: Uint8Array
  /** How long the upstream may say nothing. */
  readonly maxUpstreamSilenceMs: number
  /** The line is opened or quietened within this time. */
  readonly opensWithinMs: number
  /** The upstream is heard to its end though the client has left; what it says goes nowhere. */
  readonly outlivesClient: boolean
}

/**
 * A blank goes out at a beat before which nothing was written since the last one: every second one in
 * silence, and two beats after whatever was said. What is written to a closed socket comes back as a reset.
 */
const BEAT_MS = 25
/** A client that takes nothing for this long is as good as gone. */
const MAX_CLIENT_STALL_MS = 60_000

/** Costs little before it is opened: a quick answer never is. */
export function createRelayLine(options: RelayLineOptions): RelayLine {
  const controller = new AbortController()
  let writer: WritableStreamDefaultWriter<Uint8Array> | null = null
  let beat: ReturnType<typeof setInterval> | null = null
  let reason: StopReason | null = null
  let isWriting = false
  let hasSpokenSinceBeat = false
  let isClientGone = false
  let clientStallMs = 0
  let heardAtMs = Date.now()
  let upstreamSilenceMs = 0

  const stop = (why: StopReason) => {
    reason ??= why
    controller.abort()
  }
  // Once it is open, beats watch over the silence.
  const silence =
    options.maxUpstreamSilenceMs < options.opensWithinMs
      ? setTimeout(() => stop('upstream_silent'), options.maxUpstreamSilenceMs)
      : undefined
  const onClientGone = () => {
    isClientGone = true
    if (!options.outlivesClient) stop('client_left')
  }
  options.clientSignal.addEventListener('abort', onClientGone)
  if (options.clientSignal.aborted) onClientGone()

  async function send(bytes: Uint8Array): Promise<void> {
    if (isClientGone && options.outlivesClient) return
    isWriting = true
    try {
      await writer?.write(bytes)
    } catch (error) {
      onClientGone()
      if (!options.outlivesClient) throw error
    } finally {
      isWriting = false
      hasSpokenSinceBeat = true
      clientStallMs = 0
    }
  }

  function onBeat(): void {
    if (isWriting) {
      clientStallMs += BEAT_MS
      if (clientStallMs >= MAX_CLIENT_STALL_MS) writer?.abort().catch(onClientGone)
      return
    }
    upstreamSilenceMs += BEAT_MS
    if (upstreamSilenceMs >= options.maxUpstreamSilenceMs) stop('upstream_silent')
    if (!hasSpokenSinceBeat) send(options.blank).catch(onClientGone)
    hasSpokenSinceBeat = false
  }

  function open(): ReadableStream<Uint8Array> {
    const { readable, writable } = new IdentityTransformStream()
    writer = writable.getWriter()
    writer.closed.catch(onClientGone)
    clearTimeout(silence)
    upstreamSilenceMs = Date.now() - heardAtMs
    beat = setInterval(onBeat, BEAT_MS)
    return readable
  }

  const quieten = () => {
    clearTimeout(silence)
    if (beat !== null) clearInterval(beat)
    options.clientSignal.removeEventListener('abort', onClientGone)
  }

  return {
    upstreamSignal: controller.signal,
    stopReason: () => reason,
    isOpen: () => writer !== null,
    noteUpstream: () => {
      heardAtMs = Date.now()
      upstreamSilenceMs = 0
    },
    open,
    write: send,
    quieten,
    close: async () => {
      quieten()
      await writer?.close().catch(() => {})
    },
    breakOff: async () => {
      quieten()
      await writer?.abort(new Error('The answer was broken off.')).catch(() => {})
    },
  }
}
