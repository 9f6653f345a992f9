/**
 * An operation may wait for more where so many came before it … A pair says nothing: one caller's next
 * request follows its last one's end.
 */
const BURST_COUNT = 8
/** … in so long a time: one every GATHER_MS or so. Longer than a group and what it lets through take. */
const BURST_MS = 30
/** It waits so long: about what the commit that it saves holds up everybody on the thread. */
const GATHER_MS = 3

interface Waiting {
  readonly operation: () => unknown
  readonly resolve: (result: unknown) => void
  readonly reject: (error: unknown) => void
}

export interface CommitGroupOptions {
  /** Runs something as one transaction, undone as a whole when it throws. */
  readonly transact: <T>(closure: () => T) => T
  /** Others are likely to come at the same time. */
  readonly isBusy: () => boolean
}

/**
 * Operations of one object that come together share one transaction, and so one durable commit,
 * which is the dearest part of each. One that comes alone runs at once. They run in the order in
 * which they came; one that fails leaves the others as they are.
 */
export class CommitGroup {
  readonly #options: CommitGroupOptions
  #waiting: Waiting[] = []
  /** Of the last operations, the oldest first. */
  readonly #lastAtMs: number[] = Array(BURST_COUNT).fill(Number.NEGATIVE_INFINITY)

  constructor(options: CommitGroupOptions) {
    this.#options = options
  }

  /** Resolves when the operation's writes are in the storage; the platform holds back what follows until they are durable. */
  run<T>(operation: () => T, nowMs: number): Promise<T> | T {
    const { transact, isBusy } = this.#options
    const [firstAtMs = nowMs] = this.#lastAtMs
    const isBurst = nowMs - firstAtMs < BURST_MS
    this.#lastAtMs.shift()
    this.#lastAtMs.push(nowMs)
    if (this.#waiting.length === 0 && !(isBurst && isBusy())) return transact(operation)
    return new Promise<T>((resolve, reject) => {
      if (this.#waiting.length === 0) setTimeout(() => this.#commit(), GATHER_MS)
      // The result of an operation is what its own promise is for.
      this.#waiting.push({ operation, resolve: (result) => resolve(result as T), reject })
    })
  }

  #commit(): void {
    const { transact } = this.#options
    const group = this.#waiting
    this.#waiting = []
    try {
      const results = transact(() => group.map(({ operation }) => operation()))
      for (const [index, { resolve }] of group.entries()) resolve(results[index])
    } catch {
      for (const waiting of group) this.#commitAlone(waiting)
    }
  }

  #commitAlone({ operation, resolve, reject }: Waiting): void {
    try {
      resolve(this.#options.transact(operation))
    } catch (error) {
      reject(error)
    }
  }
}
