import assert from 'node:assert/strict'

interface Held {
  readonly sizeBytes: number
  useCount: number
}

/**
 * What fits into so many bytes, and who must go for something new: the least recently used of what
 * nobody uses. A pin is a use that is never ended.
 */
export class ByteBudget {
  readonly #budgetBytes: number
  readonly #held = new Map<string, Held>()
  /** Keys that nobody uses, the longest idle first. */
  readonly #idle = new Set<string>()
  #usedBytes = 0

  constructor(budgetBytes: number) {
    this.#budgetBytes = budgetBytes
  }

  get usedBytes(): number {
    return this.#usedBytes
  }

  get count(): number {
    return this.#held.size
  }

  has(key: string): boolean {
    return this.#held.has(key)
  }

  isIdle(key: string): boolean {
    return this.#idle.has(key)
  }

  /**
   * Takes the key in with one use, and names those that had to go for it. Null, with nothing
   * changed, when it does not fit beside what is in use.
   */
  admit(key: string, sizeBytes: number): readonly string[] | null {
    assert(!this.#held.has(key), `${key} is held already`)
    const evicted: string[] = []
    let freeBytes = this.#budgetBytes - this.#usedBytes
    for (const idle of this.#idle) {
      if (freeBytes >= sizeBytes) break
      freeBytes += this.#find(idle).sizeBytes
      evicted.push(idle)
    }
    if (freeBytes < sizeBytes) return null
    for (const victim of evicted) this.remove(victim)
    this.#held.set(key, { sizeBytes, useCount: 1 })
    this.#usedBytes += sizeBytes
    return evicted
  }

  use(key: string): void {
    this.#find(key).useCount += 1
    this.#idle.delete(key)
  }

  release(key: string): void {
    const held = this.#find(key)
    assert(held.useCount > 0, `${key} is in use`)
    held.useCount -= 1
    if (held.useCount === 0) this.#idle.add(key)
  }

  /** Lets go of a key, used or not. */
  remove(key: string): void {
    this.#usedBytes -= this.#find(key).sizeBytes
    this.#held.delete(key)
    this.#idle.delete(key)
  }

  #find(key: string): Held {
    const held = this.#held.get(key)
    assert(held, `${key} is held`)
    return held
  }
}
