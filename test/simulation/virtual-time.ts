import { createHash, createHmac } from 'node:crypto'
import { createRandom } from '../support/random.ts'

/** Of a run's seed: everything that happens by chance is drawn from it, in one order. */
export interface Chance {
  /** Uniform in [0, 1). */
  readonly draw: () => number
  readonly isHit: (probability: number) => boolean
  /** A whole number from `least` up to and with `most`. */
  readonly between: (least: number, most: number) => number
}

export function createChance(seed: number): Chance {
  const draw = createRandom(seed)
  return {
    draw,
    isHit: (probability) => draw() < probability,
    between: (least, most) => least + Math.floor(draw() * (most - least + 1)),
  }
}

interface Event {
  readonly atMs: number
  readonly sequence: number
  readonly run: () => void
}

const START_MS = Date.UTC(2030, 0, 1)

/** SHA-256 as the gateway asks for it, ready at once: real ones take turns that no clock here waits for. */
const PROMPT_HASHES = {
  importKey: async (_format: string, secret: Uint8Array) => secret,
  sign: async (_name: string, secret: Uint8Array, bytes: Uint8Array) =>
    new Uint8Array(createHmac('sha256', secret).update(bytes).digest()).buffer,
  digest: async (_name: string, bytes: Uint8Array) =>
    new Uint8Array(createHash('sha256').update(bytes).digest()).buffer,
}

/** Let go before the globals are replaced: what ends an event is that nothing is left to run in it. */
const { setImmediate: runSoon } = globalThis

/**
 * A clock that only events move. One event runs until nothing is left to do without waiting; then
 * it ends, and the next in time begins. So a run is a function of its seed.
 */
export class VirtualTime {
  /** What wall clocks are wrong by, milliseconds. */
  skewMs = 0
  #nowMs = START_MS
  #sequence = 0
  readonly #events: Event[] = []
  readonly #onEventEnd: (() => void)[] = []

  get nowMs(): number {
    return this.#nowMs
  }

  /** What `Date.now()` says. */
  get wallMs(): number {
    return this.#nowMs + this.skewMs
  }

  /** Runs something later; returns what `cancel` takes. */
  schedule(delayMs: number, run: () => void): number {
    const event = {
      atMs: this.#nowMs + Math.max(0, Math.ceil(delayMs)),
      sequence: ++this.#sequence,
      run,
    }
    let low = 0
    let high = this.#events.length
    while (low < high) {
      const middle = (low + high) >> 1
      const other = this.#events[middle]
      if (other !== undefined && other.atMs <= event.atMs) low = middle + 1
      else high = middle
    }
    this.#events.splice(low, 0, event)
    return event.sequence
  }

  cancel(sequence: number): void {
    const index = this.#events.findIndex((event) => event.sequence === sequence)
    if (index >= 0) this.#events.splice(index, 1)
  }

  /** Called at the end of the event that is running. */
  afterEvent(run: () => void): void {
    this.#onEventEnd.push(run)
  }

  pause(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.schedule(delayMs, resolve))
  }

  /** Runs the next event, if it is due by `untilMs`. False: there is none. */
  async step(untilMs: number): Promise<boolean> {
    const [next] = this.#events
    if (next === undefined || next.atMs > untilMs) {
      this.#nowMs = Math.max(this.#nowMs, untilMs)
      return false
    }
    this.#events.shift()
    this.#nowMs = next.atMs
    next.run()
    await this.endEvent()
    return true
  }

  async endEvent(): Promise<void> {
    await new Promise((resolve) => runSoon(resolve))
    for (const run of this.#onEventEnd.splice(0)) run()
  }
}

/** Puts time and chance of a run in the place of the platform's; returns what undoes it. */
export function replaceGlobals(
  time: VirtualTime,
  chance: Chance,
  fetchSimulated: typeof globalThis.fetch,
): () => void {
  const { setTimeout, clearTimeout, setInterval, clearInterval, fetch } = globalThis
  const { now } = Date
  const { random } = Math
  const cancel = (id: unknown) => time.cancel(Number(id))
  const repeat = (run: () => void, everyMs: number) => {
    let isCancelled = false
    const beat = () => {
      if (isCancelled) return
      run()
      time.schedule(everyMs, beat)
    }
    time.schedule(everyMs, beat)
    return () => {
      isCancelled = true
    }
  }
  Object.assign(globalThis, {
    setTimeout: (run: () => void, delayMs = 0) => time.schedule(delayMs, run),
    clearTimeout: cancel,
    setInterval: repeat,
    clearInterval: (stop: () => void) => stop(),
    fetch: fetchSimulated,
  })
  Date.now = () => time.wallMs
  Math.random = chance.draw
  const fill = (bytes: Uint8Array) => bytes.map((_, index) => setByte(bytes, index, chance))
  Object.defineProperty(crypto, 'getRandomValues', { value: fill, configurable: true })
  Object.defineProperty(crypto, 'subtle', { value: PROMPT_HASHES, configurable: true })
  return () => {
    Object.assign(globalThis, { setTimeout, clearTimeout, setInterval, clearInterval, fetch })
    Date.now = now
    Math.random = random
    Reflect.deleteProperty(crypto, 'getRandomValues')
    Reflect.deleteProperty(crypto, 'subtle')
  }
}

function setByte(bytes: Uint8Array, index: number, chance: Chance): number {
  const byte = chance.between(0, 255)
  bytes[index] = byte
  return byte
}
