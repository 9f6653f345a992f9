import type { KvRow, ModelRunner } from './model-runner.ts'
import { PagePool } from './page-pool.ts'

/** A running sequence's row and the pages in it. */
export interface HeldKv {
  readonly row: KvRow
  readonly pages: number[]
  /** Pages at its beginning that later sequences find. */
  labelledCount: number
}

type PageKeyOf = (index: number) => string

/** The KV cache as the engine uses it: pages are taken as they are needed, and found again by their keys. */
export class KvMemory {
  readonly #runner: ModelRunner
  readonly #pool: PagePool

  constructor(runner: ModelRunner) {
    this.#runner = runner
    this.#pool = new PagePool(runner.kvPageCount)
  }

  get usedTokens(): number {
    return this.#pool.heldCount * this.#runner.kvPageTokens
  }

  /** Kept for later sequences; given up as soon as running ones need the memory. */
  get cachedTokens(): number {
    return this.#pool.keptCount * this.#runner.kvPageTokens
  }

  get totalTokens(): number {
    return this.#runner.kvPageCount * this.#runner.kvPageTokens
  }

  /** How many pages a row of `tokenCount` tokens has. */
  countPages(tokenCount: number): number {
    return Math.ceil(tokenCount / this.#runner.kvPageTokens)
  }

  /** Whether a row of `capacityTokens` could be opened if `releasedCount` pages more were released. */
  hasRoom(capacityTokens: number, releasedCount = 0): boolean {
    return this.countPages(capacityTokens) <= this.#pool.availableCount + releasedCount
  }

  /**
   * Opens a row of `capacityTokens`, for which `hasRoom` said yes. It begins with the pages that are
   * there already of the sequence's first `findCount`; copies of those that another row holds.
   */
  open(capacityTokens: number, keyOf: PageKeyOf, findCount: number): HeldKv {
    const found = this.#find(keyOf, findCount)
    const row = this.#runner.createKvRow()
    const pages: number[] = []
    // Before any page is taken, which may drop kept ones.
    for (const { page, isHeld } of found) if (!isHeld) this.#pool.adopt(page)
    for (const { page, isHeld } of found) {
      const own = isHeld ? this.#take() : page
      if (isHeld) this.#runner.copyKvPage(page, own)
      this.#runner.addKvPage(row, own, 'filled')
      pages.push(own)
    }
    const kv = { row, pages, labelledCount: found.length }
    for (let count = this.countPages(capacityTokens); pages.length < count; ) {
      this.#addEmpty(kv, this.#take())
    }
    return kv
  }

  /** Adds a page to the row; false when all are held. */
  grow(kv: HeldKv): boolean {
    const page = this.#pool.take()
    if (page === null) return false
    this.#addEmpty(kv, page)
    return true
  }

  /** Lets later sequences find the row's full pages, of its first `pageCount`. */
  label(kv: HeldKv, keyOf: PageKeyOf, pageCount: number): void {
    const end = Math.min(pageCount, this.#countFull(kv))
    for (const page of kv.pages.slice(kv.labelledCount, end)) {
      this.#pool.label(page, keyOf(kv.labelledCount++))
    }
  }

  /** Frees the row; its full pages, of its first `keptCount`, are kept as long as nobody needs them. */
  close(kv: HeldKv, keyOf: PageKeyOf, keptCount: number): void {
    const end = Math.min(keptCount, this.#countFull(kv))
    this.#runner.freeKvRow(kv.row)
    for (let index = kv.pages.length - 1; index >= 0; index--) {
      const page = kv.pages[index]
      if (page !== undefined) this.#pool.release(page, index < end ? keyOf(index) : null)
    }
  }

  #find(keyOf: PageKeyOf, findCount: number) {
    const found = []
    while (found.length < findCount) {
      const next = this.#pool.find(keyOf(found.length))
      if (next === null) break
      found.push(next)
    }
    return found
  }

  #take(): number {
    const page = this.#pool.take()
    if (page === null) throw new Error('the KV cache has fewer pages than were promised')
    return page
  }

  #addEmpty(kv: HeldKv, page: number): void {
    this.#runner.addKvPage(kv.row, page, 'empty')
    kv.pages.push(page)
  }

  #countFull({ row }: HeldKv): number {
    return Math.floor(row.length / this.#runner.kvPageTokens)
  }
}
