import type { Chance, VirtualTime } from './virtual-time.ts'

/** How likely each mishap is, in a run; 0 when all is calm. */
export interface Faults {
  lostRequest: number
  lateRequest: number
  duplicate: number
  lostReply: number
  slow: number
  /** Of an object, at the end of an event in which it wrote. */
  crash: number
}

export function drawFaults(chance: Chance): Faults {
  const upTo = (most: number) => (chance.isHit(0.5) ? chance.draw() * most : 0)
  return {
    lostRequest: upTo(0.2),
    lateRequest: upTo(0.2),
    duplicate: upTo(0.3),
    lostReply: upTo(0.3),
    slow: upTo(0.3),
    crash: upTo(0.15),
  }
}

export function calm(faults: Faults): void {
  for (const name of Object.keys(faults) as (keyof Faults)[]) faults[name] = 0 // its own keys
}

const GIVE_UP_MS = 1_000
const LATEST_MS = 60_000

/** Carries calls: late, twice, or not at all; and their answers. */
export class Network {
  readonly time: VirtualTime
  readonly chance: Chance
  readonly faults: Faults
  /** Calls that have not arrived yet, each copy of one. */
  underWayCount = 0

  constructor(time: VirtualTime, chance: Chance, faults: Faults) {
    this.time = time
    this.chance = chance
    this.faults = faults
  }

  /** Rejects when request or answer got lost; the request may arrive all the same, even later. */
  send<T>(deliver: () => T | Promise<T>): Promise<T> {
    const { time, chance, faults } = this
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Error('Network connection lost.'))
      const arrive = async () => {
        this.underWayCount -= 1
        try {
          const answer = await deliver()
          if (chance.isHit(faults.lostReply)) fail()
          else time.schedule(this.#latencyMs(), () => resolve(answer))
        } catch (error) {
          time.schedule(this.#latencyMs(), () => reject(error))
        }
      }
      if (chance.isHit(faults.lostRequest)) {
        time.schedule(GIVE_UP_MS, fail)
      } else if (chance.isHit(faults.lateRequest)) {
        time.schedule(GIVE_UP_MS, fail)
        this.#dispatch(chance.between(GIVE_UP_MS, LATEST_MS), arrive)
      } else {
        this.#dispatch(this.#latencyMs(), arrive)
        if (chance.isHit(faults.duplicate)) this.#dispatch(chance.between(1, LATEST_MS), arrive)
      }
    })
  }

  #dispatch(delayMs: number, arrive: () => void): void {
    this.underWayCount += 1
    this.time.schedule(delayMs, arrive)
  }

  #latencyMs(): number {
    return this.chance.isHit(this.faults.slow)
      ? this.chance.between(100, 3_000)
      : this.chance.between(1, 20)
  }
}
