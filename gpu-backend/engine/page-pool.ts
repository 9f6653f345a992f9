import assert from 'node:assert/strict'

/** A page that holds what a key names. */
export interface FoundPage {
  readonly page: number
  /** A sequence has it in its row. */
  readonly isHeld: boolean
}

/**
 * Who has which page of the KV cache: each page is free, held by one sequence, or kept for a later
 * sequence that begins alike. Pure book-keeping by page number; `KvMemory` carries it out.
 *
 * A page is in one row at most, because a run reads a row's pages as one range of memory: a second
 * sequence with the same beginning gets a copy.
 */
export class PagePool {
  readonly #free: number[]
  readonly #held = new Set<number>()
  /** Pages that nobody holds but a key names, the one to be dropped next first. */
  readonly #kept = new Set<number>()
  readonly #pageByKey = new Map<string, number>()
  readonly #keyByPage = new Map<number, string>()

  constructor(pageCount: number) {
    this.#free = Array.from({ length: pageCount }, (_, index) => pageCount - 1 - index)
  }

  /** Pages that `take` can give, one after another. */
  get availableCount(): number {
    return this.#free.length + this.#kept.size
  }

  get heldCount(): number {
    return this.#held.size
  }

  get keptCount(): number {
    return this.#kept.size
  }

  find(key: string): FoundPage | null {
    const page = this.#pageByKey.get(key)
    return page === undefined ? null : { page, isHeld: this.#held.has(page) }
  }

  /** Holds a kept page; it keeps its key. */
  adopt(page: number): void {
    assert(this.#kept.delete(page), `page ${page} is kept`)
    this.#held.add(page)
  }

  /** Holds a page whose content is lost: a free one, or else the kept one that was released first. Null when all are held. */
  take(): number | null {
    const page = this.#free.pop() ?? this.#dropKept()
    if (page !== null) this.#held.add(page)
    return page
  }

  /** The held page holds what the key names, and later sequences find it. The first page of a key stays the one that is found. */
  label(page: number, key: string): void {
    assert(this.#held.has(page), `page ${page} is held`)
    if (this.#pageByKey.has(key) || this.#keyByPage.has(page)) return
    this.#pageByKey.set(key, page)
    this.#keyByPage.set(page, key)
  }

  /**
   * Nobody holds the page any more. With a key it is kept, dropped after those released before it;
   * so a sequence releases its last page first, for a page without those before it is never found.
   * Null: its content is worth nothing.
   */
  release(page: number, key: string | null): void {
    if (key === null) this.#unlabel(page)
    else this.label(page, key)
    assert(this.#held.delete(page), `page ${page} is held`)
    if (this.#keyByPage.has(page)) {
      this.#kept.add(page)
      return
    }
    this.#free.push(page)
    const twin = key === null ? undefined : this.#pageByKey.get(key)
    if (twin !== undefined && this.#kept.delete(twin)) this.#kept.add(twin)
  }

  #dropKept(): number | null {
    const [page] = this.#kept
    if (page === undefined) return null
    this.#kept.delete(page)
    this.#unlabel(page)
    return page
  }

  #unlabel(page: number): void {
    const key = this.#keyByPage.get(page)
    if (key === undefined) return
    this.#keyByPage.delete(page)
    this.#pageByKey.delete(key)
  }
}
