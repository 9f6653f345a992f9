/** The one alarm of an account object: whoever wants it sooner sets it. */
export class AccountAlarm {
  readonly #storage: DurableObjectStorage
  /** When it will fire; null when none is set. */
  #atMs: number | null = null

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage
  }

  /** Finds out when it will fire. False: none is set. */
  async restore(): Promise<boolean> {
    this.#atMs = await this.#storage.getAlarm()
    return this.#atMs !== null
  }

  /** It has fired: none is set now. */
  noteFired(): void {
    this.#atMs = null
  }

  /** Sets it, unless it fires sooner anyway. */
  arm(atMs: number): void {
    if (this.#atMs !== null && this.#atMs <= atMs) return
    this.#atMs = atMs
    void this.#storage.setAlarm(atMs)
  }
}
