/** Of so many accounts it is known that several objects serve them. */
const KEPT_ACCOUNT_COUNT = 10_000

/**
 * How many objects serve an account, as its answers say. An isolate that knows nothing asks the
 * account's own object; one that knows too many is told by the shard that is none any more.
 */
export class ShardDirectory {
  readonly #counts = new Map<string, number>()

  note(accountId: string, shards: number): void {
    if (shards === 1) this.#counts.delete(accountId)
    else {
      if (this.#counts.size >= KEPT_ACCOUNT_COUNT) this.#counts.clear()
      this.#counts.set(accountId, shards)
    }
  }

  /** Which of them is to serve a request; 0 is the account's own. */
  pick(accountId: string, requestId: string): number {
    const shards = this.#counts.get(accountId) ?? 1
    if (shards === 1) return 0
    let hash = 0
    for (let index = 0; index < requestId.length; index++)
      hash = (Math.imul(hash, 31) + requestId.charCodeAt(index)) >>> 0
    return hash % shards
  }
}
