import assert from 'node:assert/strict'
import type { KvRow, PageContent } from '../engine/model-runner.ts'
import { PAGE_LENGTH, type RowGroup } from '../model/graph-inputs.ts'
import type { ModelConfig } from '../model/model-source.ts'
import type { Tensor } from './session.ts'

/** A sequence's place in the cache. */
export interface PagedRow extends KvRow {
  length: number
  /** Where the pages that hold its tokens lie now, in order, the last one partly filled. */
  readonly pages: number[]
  /** Numbers of pages that were given to it and hold none of its tokens yet. */
  readonly emptyPages: number[]
}

/** Pages first … first + count − 1 of the cache, zero-copy. */
export interface PageRange {
  readonly first: number
  readonly count: number
  /** By layer: [count, KV, 1, 64, D] float32. */
  readonly layers: readonly { readonly k: Tensor; readonly v: Tensor }[]
}

/**
 * The keys and values of all rows, in pages of 64 positions. All memory is reserved at once; the
 * system commits it page by page as it is touched. Who gets which page is the engine's decision: a
 * page keeps its number and its content, in a row or in none, wherever it lies.
 *
 * A run reads the pages of its rows as one range of memory for each group, decode rows before chunk
 * rows: `arrange` swaps the few pages that lie elsewhere, one when a row begins a page, a row's worth
 * when its prefill ends.
 */
export class KvPages {
  readonly pageCount: number
  readonly #heads: number
  readonly #headSize: number
  readonly #layers: readonly { readonly k: Float32Array; readonly v: Float32Array }[]
  readonly #owners: ({ row: PagedRow; index: number } | null)[]
  /** Places that hold anything but zeros. */
  readonly #isUsed: Uint8Array
  /** Where the page of each number lies, and the number of the page that lies there. */
  readonly #places: Int32Array
  readonly #numbers: Int32Array
  readonly #ranges = new Map<RowGroup, PageRange>()
  #nextId = 1

  constructor(config: ModelConfig, budgetTokens: number) {
    this.pageCount = Math.floor(budgetTokens / PAGE_LENGTH)
    if (this.pageCount < 1) {
      throw new RangeError(`A KV budget of ${budgetTokens} tokens is less than a page of 64.`)
    }
    this.#heads = config.kvHeadCount
    this.#headSize = config.headSize
    this.#layers = Array.from({ length: config.layerCount }, () => ({
      k: new Float32Array(this.pageCount * this.#pageSize),
      v: new Float32Array(this.pageCount * this.#pageSize),
    }))
    this.#owners = new Array(this.pageCount).fill(null)
    this.#isUsed = new Uint8Array(this.pageCount)
    this.#places = Int32Array.from({ length: this.pageCount }, (_, page) => page)
    this.#numbers = this.#places.slice()
  }

  /** A row without pages. */
  createRow(): PagedRow {
    return {
      id: this.#nextId++,
      length: 0,
      pages: [],
      emptyPages: [],
      get capacity() {
        return (this.pages.length + this.emptyPages.length) * PAGE_LENGTH
      },
    }
  }

  /** Gives the row its next page; a filled one holds its next 64 tokens already. */
  addPage(row: PagedRow, page: number, content: PageContent): void {
    if (content === 'empty') {
      row.emptyPages.push(page)
      return
    }
    assert(row.length === row.capacity, 'A filled page follows full ones.')
    this.#hang(row, page)
    row.length += PAGE_LENGTH
  }

  /** What page `from` holds, in page `to` too. */
  copyPage(from: number, to: number): void {
    const [source, target] = [this.#placeOf(from), this.#placeOf(to)]
    assert(this.#owners[target] === null, `Page ${to} is no row's when another is copied into it.`)
    this.#forEachArray((array) => this.#slice(array, target).set(this.#slice(array, source)))
    this.#isUsed[target] = 1
  }

  /** Takes the row's pages from it; they keep what they hold. */
  freeRow(row: PagedRow): void {
    for (const place of row.pages) this.#owners[place] = null
    row.pages.length = 0
    row.emptyPages.length = 0
  }

  /** Gathers the pages of each group's rows in one range, and gives the ranges. */
  arrange(rows: Readonly<Record<RowGroup, readonly PagedRow[]>>): Record<RowGroup, PageRange> {
    const decodeRows = new Set(rows.decode)
    const chunkRows = new Set(rows.chunk)
    const decodeEnd = countPages(rows.decode)
    const chunkEnd = decodeEnd + countPages(rows.chunk)
    this.#gather(decodeRows, 0, decodeEnd)
    this.#gather(chunkRows, decodeEnd, chunkEnd)
    return {
      decode: this.#range('decode', 0, decodeEnd),
      chunk: this.#range('chunk', decodeEnd, chunkEnd),
    }
  }

  /**
   * Appends the row's tokens `firstToken …` of `present`, a run's keys then values of every layer:
   * [2L, T, KV, D].
   */
  append(row: PagedRow, present: Float32Array, tokens: { first: number; count: number }): void {
    const tokenSize = this.#heads * this.#headSize
    const partSize = present.length / (2 * this.#layers.length)
    for (let i = 0; i < tokens.count; i++) {
      if (row.length % PAGE_LENGTH === 0) this.#beginPage(row)
      const page = row.pages.at(-1)
      assert(page !== undefined, 'A row that holds tokens has a page.')
      const slot = (page * this.#heads * PAGE_LENGTH + (row.length % PAGE_LENGTH)) * this.#headSize
      let from = (tokens.first + i) * tokenSize
      for (const part of ['k', 'v'] as const) {
        for (const layer of this.#layers) {
          this.#writeHeads(layer[part], slot, present.subarray(from, from + tokenSize))
          from += partSize
        }
      }
      row.length += 1
    }
  }

  /** Writes a token's `heads` [KV, D] at `slot` of its page's first head, and so on. */
  #writeHeads(array: Float32Array, slot: number, heads: Float32Array): void {
    const stride = (PAGE_LENGTH - 1) * this.#headSize
    let to = slot
    let d = 0
    for (const value of heads) {
      array[to++] = value
      if (++d === this.#headSize) {
        d = 0
        to += stride
      }
    }
  }

  get #pageSize(): number {
    return this.#heads * PAGE_LENGTH * this.#headSize
  }

  #beginPage(row: PagedRow): void {
    const page = row.emptyPages.shift()
    assert(page !== undefined, 'A row has a page for each of its tokens.')
    const place = this.#placeOf(page)
    // What an earlier row left may be NaN, which no mask can hide.
    if (this.#isUsed[place]) this.#forEachArray((array) => this.#slice(array, place).fill(0))
    this.#isUsed[place] = 1
    this.#hang(row, page)
  }

  #hang(row: PagedRow, page: number): void {
    const place = this.#placeOf(page)
    assert(this.#owners[place] === null, `Page ${page} belongs to one row.`)
    this.#owners[place] = { row, index: row.pages.length }
    row.pages.push(place)
  }

  #placeOf(page: number): number {
    const place = this.#places[page]
    assert(place !== undefined, `Page ${page} is one of ${this.pageCount}.`)
    return place
  }

  /** Brings all pages of `rows` into `first … end − 1`, which is as many. */
  #gather(rows: ReadonlySet<PagedRow>, first: number, end: number): void {
    const isTheirs = (page: number) => {
      const owner = this.#owners[page]
      return owner != null && rows.has(owner.row)
    }
    let from = end
    for (let page = first; page < end; page++) {
      if (isTheirs(page)) continue
      while (!isTheirs(from)) from++
      this.#swap(page, from)
    }
  }

  #swap(a: number, b: number): void {
    const saved = new Float32Array(this.#pageSize)
    const isBlank = this.#isUsed[a] === 0
    this.#forEachArray((array) => {
      if (!isBlank) saved.set(this.#slice(array, a))
      this.#slice(array, a).set(this.#slice(array, b))
      if (!isBlank) this.#slice(array, b).set(saved)
    })
    this.#isUsed[a] = 1
    const [ownerA, ownerB] = [this.#owners[a] ?? null, this.#owners[b] ?? null]
    const [numberA, numberB] = [this.#numbers[a] ?? a, this.#numbers[b] ?? b]
    this.#owners[a] = ownerB
    this.#owners[b] = ownerA
    if (ownerB) ownerB.row.pages[ownerB.index] = a
    if (ownerA) ownerA.row.pages[ownerA.index] = b
    this.#numbers[a] = numberB
    this.#numbers[b] = numberA
    this.#places[numberB] = a
    this.#places[numberA] = b
  }

  /** At least one page, for a graph's input is never empty. */
  #range(group: RowGroup, from: number, end: number): PageRange {
    const count = Math.max(1, end - from)
    const first = Math.min(from, this.pageCount - count)
    const known = this.#ranges.get(group)
    if (known?.first === first && known.count === count) return known
    const dims = [count, this.#heads, 1, PAGE_LENGTH, this.#headSize]
    const view = (array: Float32Array): Tensor => ({
      data: array.subarray(first * this.#pageSize, (first + count) * this.#pageSize),
      dims,
    })
    const layers = this.#layers.map(({ k, v }) => ({ k: view(k), v: view(v) }))
    const range = { first, count, layers }
    this.#ranges.set(group, range)
    return range
  }

  #slice(array: Float32Array, page: number): Float32Array {
    return array.subarray(page * this.#pageSize, (page + 1) * this.#pageSize)
  }

  #forEachArray(visit: (array: Float32Array) => void): void {
    for (const { k, v } of this.#layers) {
      visit(k)
      visit(v)
    }
  }
}

function countPages(rows: readonly PagedRow[]): number {
  return rows.reduce((count, row) => count + row.pages.length, 0)
}
